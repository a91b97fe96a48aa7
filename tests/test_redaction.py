"""What looks like a key or token is blotted out, and ordinary words are not."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.redaction import RedactingFormatter, one_line, redact

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
