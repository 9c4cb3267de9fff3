"""What went wrong between here and the hub, as something that a person can act on."""

from __future__ import annotations

import os
from collections.abc import Iterator


def explain_hub(error: BaseException) -> str:
    """One clause that says why something could not be had from the hub, and what to do."""
    return explain_download(error) or first_line(error)


def explain_download(error: BaseException) -> str | None:
    """The same where the download failed; None where something else did.

    Libraries wrap each other's errors, so the whole chain is looked at: the one that is raised often names neither
    the network nor the token.
    """
    from huggingface_hub import constants, errors

    chain = list(_chain(error))
    unreached = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, ConnectionError)
    if constants.HF_HUB_OFFLINE and any(isinstance(one, unreached) for one in chain):
        return "HF_HUB_OFFLINE is set and it is not in the cache; unset it, or fetch it once where there is a network"
    token = "the HF_TOKEN that is set does not open" if os.environ.get("HF_TOKEN") else "no HF_TOKEN opens"
    for one in chain:
        # `datasets` cuts the chain off: its own error and message are all that is left.
        is_theirs = type(one).__name__ == "DatasetNotFoundError"
        if isinstance(one, errors.GatedRepoError) or (is_theirs and "gated" in str(one)):
            return f"it is gated, and {token} it; accept its terms on its page and set HF_TOKEN to your token"
        if isinstance(one, errors.RepositoryNotFoundError) or is_theirs:
            return f"the hub has no such repository, or a private one, and {token} it; check the id and HF_TOKEN"
        if isinstance(one, errors.EntryNotFoundError) and not isinstance(one, errors.LocalEntryNotFoundError):
            return f"the repository lacks a file ({first_line(one)}); check the id"
        if isinstance(one, errors.HfHubHTTPError):
            return f"the hub answered {one.response.status_code}; try again later"
    for one in chain:
        # By name: the hub's client is httpx or httpx2, by its version.
        kinds = [kind.__name__ for kind in type(one).__mro__]
        if isinstance(one, ConnectionError | TimeoutError) or "TransportError" in kinds:
            where = f" from {endpoint}" if (endpoint := os.environ.get("HF_ENDPOINT")) else ""
            return f"the download{where} broke off or never began ({type(one).__name__}); check the network, try again"
    return None


def first_line(error: BaseException) -> str:
    """What an error says, without the advice for programmers that follows."""
    return str(error).strip().partition("\n")[0][:200].rstrip(" .:") or type(error).__name__


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
