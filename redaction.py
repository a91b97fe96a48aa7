"""Keeps keys and tokens out of what is printed, logged and stored, and messages to one line.

In comes text, out goes the text with secrets replaced by `***`: the values of environment variables that are named
like secrets, what follows a secret's name (`HF_TOKEN=…`, `--api-key …`, `"password": "…"`), credentials in URLs, and
the forms that the Hub, AWS and bearer headers use.
"""

from __future__ import annotations

import logging
import os
import re

_SECRET_NAME = re.compile(r"(?i)(?:^|_)(?:token|key|secret|password|passwd|credentials?)(?:_|$)")
# A name that *is* a secret's (HF_TOKEN, aws_secret_access_key, --api-key), then its value. `--tokenizer x` and "the
# token store" are not meant.
_NAMED = re.compile(
    r"""(?ix) ( \b (?:\w+[_-])? (?:token|api[_-]?key|access[_-]?key|secret|secret[_-]?key|password|passwd)
                ['"]? \s*[=:]\s* ['"]?
              | --(?:[\w-]+-)? (?:token|key|secret|password) \s+ )
        (?!\s) ['"]? [^\s'",;&]{6,} """
)
_URL_USER = re.compile(r"(?<=://)[^/@\s]+:[^/@\s]+@")
_KNOWN_FORMS = re.compile(r"\bhf_[A-Za-z0-9]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|(?i:\bbearer\s+)[\w.~+/=-]{8,}")
_SHORTEST = 8
"""Values of secret variables that are shorter are not looked for: they would blot out ordinary words."""


def redact(text: str) -> str:
    """Return the text with `***` in place of secrets."""
    values = {value for name, value in os.environ.items() if len(value) >= _SHORTEST and _SECRET_NAME.search(name)}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, "***")
    text = _URL_USER.sub("***@", text)
    text = _NAMED.sub(lambda match: f"{match[1]}***", text)
    return _KNOWN_FORMS.sub("***", text)


def one_line(text: str) -> str:
    """Return the text as one line of printable characters: white space collapsed, control characters escaped."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """Return the text with control characters escaped, but for line ends and tabs: it may go to a terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


class RedactingFormatter(logging.Formatter):
    """A log formatter whose output went through `redact` and `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's text, without secrets and control characters."""
        return printable(redact(super().format(record)))
