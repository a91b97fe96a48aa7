"""What looks like a key or token is blotted out, and ordinary words are not."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.artifacts import Identity, open_artifact
from deltactl.cli import main
from deltactl.ingest.shards import finish, write_shard
from deltactl.locations import Location
from deltactl.redaction import RedactingFormatter, one_line, printable, redact

SECRET = "Zx9+vv/0aa-Bq_7"


@pytest.mark.parametrize(
    "text",
    [
        f"HF_TOKEN={SECRET}",
        f"token: {SECRET}",
        f'{{"api_key": "{SECRET}"}}',
        f"aws_secret_access_key = {SECRET}",
        f"wandb login --api-key {SECRET} now",
        f"--password {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"s3://user:{SECRET.replace('/', '_')}@bucket/x",
    ],
)
def test_a_named_secret_is_blotted_out(text: str) -> None:
    redacted = redact(text)
    assert "***" in redacted
    assert SECRET not in redacted
    assert SECRET.replace("/", "_") not in redacted


@pytest.mark.parametrize("text", ["hf_abcdEFGH1234", "AKIAABCDEFGHIJKLMNOP", "ASIAABCDEFGHIJKLMNOP"])
def test_a_known_form_is_blotted_out_wherever_it_stands(text: str) -> None:
    assert redact(f"('{text}',)") == "('***',)"


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "SOME_CREDENTIALS"]
)
def test_the_value_of_a_secret_variable_is_blotted_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "plain-words-only")
    assert redact("it was plain-words-only, he said") == "it was ***, he said"


@pytest.mark.parametrize(
    "text",
    [
        "deltactl train world --tokenizer runs/deltatok-4 --config deltaworld",
        "the token store at workspace/tokens/kinetics has no index.json",
        "unknown setting 'tokens'; did you mean 'tokenizer'?",
        "tokens: 12 of 14",
        "the key 'lr' is there twice",
        "s3://bucket/keys/000000.tar",
        "https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m",
        "monkey=business",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_the_log_is_redacted_with_its_arguments_and_tracebacks() -> None:
    formatter = RedactingFormatter("%(levelname)s: %(message)s")
    try:
        raise ValueError(f"token={SECRET}")
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "x.py", 1, "token=%s", (SECRET,), trace)
    text = formatter.format(record)
    assert SECRET not in text
    assert text.startswith("INFO: token=***\nTraceback")


@given(st.text())
def test_one_line_is_one_printable_line_of_the_same_words(text: str) -> None:
    line = one_line(text)
    assert line.isprintable()
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line


@given(st.text())
def test_what_is_printable_holds_no_control_character_but_line_ends_and_tabs(text: str) -> None:
    shown = printable(text)
    assert all(each.isprintable() or each in "\n\t" for each in shown)
    assert printable(shown) == shown


def test_a_name_cannot_clear_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names in an artifact may come from anybody; they are shown with their control characters escaped."""
    place = Location.of(tmp_path)
    open_artifact(place, Identity("shards", {"dataset": "folder\x1b]0;owned\x07"}), {})
    write_shard(place, "000000", [], [], {})
    finish(place)
    (tmp_path / "left\x1b[2Jover").write_text("")
    assert main(["info", str(tmp_path)]) == 0
    assert main(["verify", str(tmp_path)]) == 0
    shown = "".join(capsys.readouterr())
    assert "left\\x1b[2Jover" in shown
    assert "folder\\x1b]0;owned\\x07" in shown
    assert "\x1b" not in shown
