"""What the Hugging Face Hub's client raises, as sentences that say what is wrong and what to do."""

from __future__ import annotations


def refusal(error: Exception, name: str, *, absent: str, unreachable: str, without_network: str) -> str | None:
    """Return one line for what the client raised; None where that is not about the Hub, such as a full disk.

    `absent` is the line for a repository or revision that is not there or may not be seen, `unreachable` the beginning
    of that for a Hub that cannot be asked, to which the reason is put, `without_network` what to do then.
    """
    from huggingface_hub import constants
    from huggingface_hub import errors as hub

    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    if isinstance(cause, hub.GatedRepoError):
        repository = name.partition("@")[0]
        return (
            f"{name} asks for its licence to be accepted: accept it at https://huggingface.co/{repository}, "
            "then run `hf auth login` here with the same account"
        )
    if isinstance(cause, (hub.RepositoryNotFoundError, hub.RevisionNotFoundError, hub.HFValidationError)):
        return absent
    offline = isinstance(cause, (hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled))
    if offline or type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError"):
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the Hub does not answer"
        return f"{unreachable} {why}; {without_network}"
    if isinstance(cause, hub.HfHubHTTPError):
        status = cause.response.status_code
        if status in (401, 403):
            return (
                f"the Hub does not let this account do that with {name} (HTTP status {status}){_reason(cause)}; run "
                "`hf auth login` with a token that may (to push: one with write access)"
            )
        return (
            f"the Hub did not do what was asked of {name} (HTTP status {status}){_reason(cause)}; run the same command "
            "again later, what is there already is kept"
        )
    numbered = isinstance(cause, OSError) and cause.errno is not None
    if not numbered and (isinstance(cause, OSError | RuntimeError) or _is_of_the_connection(cause)):
        # A connection that breaks within a file is any of several libraries' exceptions.
        return (
            f"{name}: the connection to the Hub broke ({type(cause).__name__}); run the same command again, what "
            "arrived is kept"
        )
    return None


def _is_of_the_connection(error: BaseException) -> bool:
    return type(error).__module__.startswith(("httpx", "httpcore"))


def _reason(error: BaseException) -> str:
    """Return what the Hub says itself, such as that a private account is full."""
    said = getattr(error, "server_message", None)
    return f": {' '.join(str(said).split())[:200].rstrip('.')}" if said else ""
