"""What looks like a key or token is blotted out, and ordinary words are not."""

from __future__ import annotations

import logging
import sys
import timeit
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltactl.artifacts import Identity, open_artifact
from deltactl.cli import main
from deltactl.ingest.shards.format import finish, write_shard
from deltactl.locations import Location
from deltactl.redaction import RedactingFormatter, one_line, printable, redact, redacted, terminal

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
        f"Authorization: Basic {SECRET}",
        f"--password '{SECRET} and more'",
        f'{{"password": "one {SECRET}"}}',
        f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={SECRET};",
        f"s3://user:{SECRET}@bucket/x",
        f"s3://user:pass@word/{SECRET}@bucket/x",
        f"https://{SECRET.replace('/', '_')}@host/x",
        f"https://:{SECRET}@host:8080/x",
        f"https://bucket.s3.amazonaws.com/x?X-Amz-Date=1&X-Amz-Signature={SECRET}&X-Amz-Expires=9",
        f"https://bucket.s3.amazonaws.com/x?X-Amz-Security-Token={SECRET}",
        f"https://account.blob.core.windows.net/c/x?sv=2022-11-02&sp=r&sig={SECRET}&se=2027",
        f"https://storage.googleapis.com/b/x?X-Goog-Credential={SECRET}",
        f"https://storage.googleapis.com/b/x?GoogleAccessId=me&Signature={SECRET}",
        f"https://bucket.oss-cn-beijing.aliyuncs.com/x?Expires=1&Signature={SECRET}",
        f"https://bucket.cos.ap-guangzhou.myqcloud.com/x?q-sign-algorithm=sha1&q-signature={SECRET}",
        f"https://d111.cloudfront.net/x?Policy={SECRET}&Key-Pair-Id=K1",
        f"https://host/x?access_token={SECRET}",
        f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
    ],
)
def test_a_named_secret_is_blotted_out(text: str) -> None:
    redacted = redact(text)
    assert "***" in redacted
    assert SECRET not in redacted
    assert SECRET.replace("/", "_") not in redacted


@pytest.mark.parametrize(
    "text",
    [
        "hf_abcdEFGH1234",
        "AKIAABCDEFGHIJKLMNOP",
        "ASIAABCDEFGHIJKLMNOP",
        "ghp_" + "a1" * 18,
        "github_pat_" + "a1" * 30,
        "glpat-" + "a1" * 10,
        "AIza" + "a1_-b" * 7,
        "ya29." + "a1" * 20,
        "sk-proj-" + "aB1" * 16,
        "sk-ant-api03-" + "aB1" * 16,
        "wandb_v1_" + "a1" * 20,
        "xoxb-1234567890-1234567890-abcdefghij",
        "npm_" + "a1" * 18,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl",
        "SG." + "a1" * 11 + "." + "b2" * 21 + "c",  # one that only the library knows
        "LTAI5tAbCdEfGhIjKlMnOp",
    ],
)
def test_a_known_form_is_blotted_out_wherever_it_stands(text: str) -> None:
    assert redact(f"('{text}',)") == "('***',)"


def test_a_variable_is_blotted_out_as_a_url_spells_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "plain/words+only")
    assert redact("at plain%2Fwords%2Bonly and plain/words+only") == "at *** and ***"


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
        "https://host:8080/videos/one.mp4?width=512&format=mp4",
        "rtsp://10.0.0.3:554/stream is not on this disk; 52.94.236.248:6379 does not answer",
        "/data/user@site/clips/key=7;code=3",
        "sha256 3f786850e387550fdab836ed7e6dc881de23001b3f786850e387550fdab836ed",
        "kinetics-vitb16-512-deltatok-4-cooldown is at 9c2f4d6e8b0a1c3e5f70",
    ],
)
def test_ordinary_messages_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


@given(st.text())
def test_what_is_redacted_stays_as_it_is(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.from_regex(r"[A-Za-z0-9+/@:=_-]{8,40}", fullmatch=True))
def test_no_password_in_a_url_survives(password: str) -> None:
    shown = redact(f"cannot read s3://someone:{password}@bucket/video.mp4: no such key")
    assert shown == "cannot read s3://***@bucket/video.mp4: no such key"


@pytest.mark.parametrize("piece", ["a_", "a-b_1", "://", "--", "sk-", "token=", 'token="', "?a.b-", "https://a:"])
def test_the_time_grows_with_the_text(piece: str) -> None:
    """Looking for secrets takes well under a second for a page of anything, so that nobody waits for it."""
    redact("warm kinetics-vitb16-512")
    text = piece * (4_000 // len(piece))
    assert min(timeit.repeat(lambda: redact(text), number=1, repeat=3)) < 1.0


def test_settings_lose_secrets_and_stay_what_they_are() -> None:
    settings = {
        "data": f"s3://me:{SECRET}@bucket/x",
        "api_key": 12345,
        "nested": {"HF_TOKEN": "short", "tokens": [1, f"token={SECRET}"], "tokenizer": "runs/one"},
        "size": 256,
        "secret": None,
    }
    assert redacted(settings) == {
        "data": "s3://***@bucket/x",
        "api_key": "***",
        "nested": {"HF_TOKEN": "***", "tokens": [1, "token=***"], "tokenizer": "runs/one"},
        "size": 256,
        "secret": None,
    }


def test_whatever_is_printed_goes_through_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal(), terminal():  # a command that runs commands
        print(f"token={SECRET}")
        click.echo(f"token={SECRET}", err=True)
        sys.stdout.writelines([f"token={SECRET}\n"])
    assert capsys.readouterr().out == "token=***\n" * 2
    print(f"token={SECRET}")
    assert SECRET in capsys.readouterr().out


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
