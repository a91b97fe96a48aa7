"""The gate for what is printed, logged or stored: keys and tokens become `***`, and messages are one printable line.

What counts as a secret: the values of environment variables that are named like secrets (also as URLs spell them), what
follows a secret's name (`HF_TOKEN=…`, `--api-key …`, `"password": "…"`, `Authorization: Basic …`), whoever logs in
within a URL, parameters that sign a URL, private keys, and the forms of tokens that services hand out: those that
detect-secrets knows, and newer ones below.

    terminal     `terminal()`: everything that the program prints, libraries' own lines included
    log          `RedactingFormatter`
    files        `redacted`, for settings and provenance on their way into YAML, JSON, checkpoints, reports and W&B

Names of videos, frames and clips are data and stay as they are in files.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus

HIDDEN = "***"
_SECRET_VARIABLE = re.compile(
    r"(?i)(?:^|_)(?:token|key|secret|password|passwd|credentials?|pat|connection_string)(?:_|$)"
)
_SECRET_NAME = (
    r"(?:token|api[_-]?key|access[_-]?key(?:[_-]?id)?|account[_-]?key|private[_-]?key|secret|secret[_-]?key|password"
    r"|passwd|pwd|authorization|cookie)"
)
_SECRET_KEY = re.compile(rf"(?i)(?:^|.*[_-]){_SECRET_NAME}$")
# A name that *is* a secret's (HF_TOKEN, aws_secret_access_key, --api-key), then its value. `--tokenizer x` and "the
# token store" are not meant.
_NAMED = re.compile(
    rf"""(?ix) ( (?<![\w-]) (?:[\w-]*[_-])? {_SECRET_NAME} ['"]? \s* [=:] \s*
               | (?<![\w-]) --(?:[\w-]+-)? (?:token|key|secret|password) \s+ )
        (?: (['"]) (?: (?!\2|\\). | \\. )+ \2? | (?:(?:basic|bearer|token) \s+)? [^\s'",;&]{{4,}} ) """
)
_URL_LOGIN = re.compile(
    # A name and password, which somebody may have typed with a slash or an at sign in it; or a token as the name.
    r"""(?x) (?<=://) (?: [^\s/@:'"<>]* : [^\s'"<>]* | [^\s/@'"<>?]+ ) @ """
)
_URL_PARAMETER = re.compile(
    r"""(?ix) (?<=[?&]) ( [\w.%-]* (?:sig|signature|credential|token|secret|password|passwd|auth|authorization|hmac
                                   |jwt|policy|session|api[_-]?key|access[_-]?key(?:[_-]?id)?|accessid|key-pair-id)
                         | key | code | cred ) = [^\s&;'"<>\#]+ """
)
_PRIVATE_KEY = re.compile(r"(?s)-----BEGIN ([A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END \1-----|\Z)")
_KNOWN_FORMS = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}|\bapi_org_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|\b(?:A3T[A-Z0-9]|ABIA|ACCA|AKIA|ASIA)[A-Z0-9]{16}\b"  # AWS
    r"|\bAIza[\w-]{35}|\bya29\.[\w.-]{20,}|\bGOCSPX-[\w-]{20,}|\bGOOG1?[A-Z0-9]{20,}\b"  # Google
    r"|\bLTAI[A-Za-z0-9]{12,}|\bAKID[A-Za-z0-9]{13,40}\b"  # Alibaba, Tencent
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bgl[a-z]{2,6}-[\w-]{20,}"  # GitHub, GitLab
    r"|(?<![\w-])(?:sk|pk|rk)[-_](?:[a-z0-9]+[-_])*[A-Za-z0-9]{20,}|\bwandb_v\d+_\w{20,}|\blocal-[0-9a-f]{40}\b"
    r"|\bxox[abeoprs]-[\w-]{10,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{40,}|\bdckr_pat_[\w-]{20,}"
    r"|\beyJ[\w-]{10,}\.[\w-]{10,}(?:\.[\w-]*)?"  # JSON web tokens
    r"|(?i:\bbearer\s+)[\w.~+/=-]{8,}"
)
_LONG_WORD = re.compile(r"[\w-]{16,}")
_SHORTEST = 8
"""Values of secret variables that are shorter are not looked for: they would blot out ordinary words."""


def redact(text: str) -> str:
    """Return the text with `***` in place of secrets; what is redacted already stays as it is."""
    for value in _variables():
        text = text.replace(value, HIDDEN)
    if "://" in text:
        text = _URL_LOGIN.sub(f"{HIDDEN}@", text)
    text = _URL_PARAMETER.sub(lambda match: f"{match[1]}={HIDDEN}", text)
    text = _PRIVATE_KEY.sub(HIDDEN, text)
    text = _NAMED.sub(lambda match: f"{match[1]}{match[2] or ''}{HIDDEN}{match[2] or ''}", text)
    text = _KNOWN_FORMS.sub(HIDDEN, text)
    # Only what looks like a token is worth a third of a second to load the forms.
    if any(not set("0123456789").isdisjoint(word) for word in _LONG_WORD.findall(text)):
        for form in _services():
            text = form.sub(HIDDEN, text)
    return text


def redacted(value: Any) -> Any:
    """Return JSON-like data with `***` in place of secrets: in every text, and whole under a secret's name."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if _SECRET_KEY.match(str(key)) and item not in (None, "") else redacted(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(redacted(item) for item in value) if type(value) in (list, tuple) else value
    return value


def _variables() -> list[str]:
    """Return what secret variables hold, and how that looks within a URL; the longest first."""
    values = {value for name, value in os.environ.items() if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name)}
    forms = {form for value in values for form in (value, quote(value, safe=""), quote_plus(value))}
    return sorted(forms, key=len, reverse=True)


@functools.cache
def _services() -> tuple[re.Pattern[str], ...]:
    """Return the forms that detect-secrets knows, but for addresses of machines, which messages must name."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.ip_public import IPPublicDetector
    from detect_secrets.plugins.private_key import PrivateKeyDetector  # only its first line

    left_out = IPPublicDetector, PrivateKeyDetector
    detectors: list[Any] = list(get_mapping_from_secret_type_to_class().values())
    return tuple(
        form
        for detector in detectors
        if issubclass(detector, RegexBasedDetector) and not issubclass(detector, left_out)
        for form in detector.denylist
    )


# --- the terminal ----------------------------------------------------------------------------------------------------


class _Redacting:
    """A text stream that writes what it is given without secrets, and is the stream below in all else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text without secrets; returns its length."""
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each line without secrets."""
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Keep secrets out of all that this process prints within."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        each if isinstance(each, _Redacting) else cast("TextIO", _Redacting(each)) for each in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def own_words() -> Iterator[None]:
    """Print to stdout as it is what the program itself says, such as a help page: there is nothing to look for."""
    before = sys.stdout
    sys.stdout = before._stream if isinstance(before, _Redacting) else before
    try:
        yield
    finally:
        sys.stdout = before


def one_line(text: str) -> str:
    """Return the text as one line of printable characters: white space collapsed, control characters escaped."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return the text with control characters escaped, but for line ends and tabs: it may go to a terminal."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode() for each in text
    )


class RedactingFormatter(logging.Formatter):
    """A log formatter whose output went through `redact` and `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, without secrets and control characters."""
        return printable(redact(super().format(record)))
