"""What went wrong between us and the Hub, in one line, and whether it may pass by itself.

No line holds a token, or an address: those of uploads are signed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from huggingface_hub.errors import (
    DeviceCodeError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    OIDCError,
)
from huggingface_hub.utils import parse_ratelimit_headers

HTTPError: type[Exception] = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
"""What the client's HTTP library raises; which library that is depends on the version of huggingface_hub."""

CAUGHT = (
    HTTPError,
    ConnectionError,
    TimeoutError,
    PermissionError,  # hf_xet
    RuntimeError,  # what the client makes of a failed upload
    ValueError,  # metadata of a card or an object that is refused; an answer that is no JSON
    LocalTokenNotFoundError,
    OIDCError,
    DeviceCodeError,
)
"""What a call of the client may raise because of the Hub or the way to it. Only for such calls: some of it means other things elsewhere."""

TRANSIENT = {408, 409, 412, 425, 429}
"""Answers below 500 that may be others later. 409 and 412: somebody else was writing at the same time."""


@dataclass(frozen=True)
class Fault:
    """`said`: what is wrong and what to do. `passes`: whether to ask again, `after` so many seconds if the Hub says so."""

    said: str
    passes: bool = False
    after: float | None = None


def fault_of(error: BaseException, repo: str) -> Fault | None:
    """What `error`, raised by a call of the client about `repo`, means; None: it is not about the Hub."""
    if isinstance(error, OSError) and error.filename is not None:
        return None
    if isinstance(error, RuntimeError):
        return None if error.__cause__ is None else fault_of(error.__cause__, repo)
    if isinstance(error, OfflineModeIsEnabled):
        return Fault("HF_HUB_OFFLINE is set, so the Hub is not asked; unset it, or publish to a folder, without --push")
    if isinstance(error, LocalTokenNotFoundError | OIDCError | DeviceCodeError):
        return Fault("there is no valid login to the Hub; log in: hf auth login")
    if isinstance(error, HfHubHTTPError):
        return _answered(error, repo)
    if isinstance(error, HTTPError | ConnectionError | TimeoutError | PermissionError):
        return _cut(error, repo)
    if isinstance(error, json.JSONDecodeError):
        return Fault("the Hub gave no answer that can be understood", passes=True)
    if isinstance(error, ValueError):
        return Fault(f"the Hub refuses what would be pushed to {repo}: {_line(str(error))}")
    return None


def _answered(error: HfHubHTTPError, repo: str) -> Fault:
    status, headers = error.response.status_code, error.response.headers
    if status >= 500 or status in TRANSIENT:
        return Fault(f"the Hub answers HTTP {status} for {repo}", passes=True, after=seconds_to_wait(headers))
    request = error.response.request
    token = request.headers.get("authorization", "").removeprefix("Bearer ")
    if not token and request.method != "GET":
        # A store of large files: what it says may repeat the signature of the address, which runs out after some time.
        return Fault(f"the store of large files refuses an upload to {repo} (HTTP {status})", passes=status == 403)
    reason = _line(headers.get("x-error-message", "").replace(token or "\n", "..."))
    return _refused(status, repo, f" ({reason})" if reason else "")


def _refused(status: int, repo: str, reason: str = "") -> Fault:
    match status:
        case 401:
            return Fault(f"the Hub does not accept this login for {repo}{reason}; log in: hf auth login")
        case 403:
            return Fault(f"no right to write to {repo}{reason}; log in as somebody who may, with a token that may write: hf auth login")
        case 404:
            return Fault(f"the Hub has no {repo}, or not for you{reason}; check the name, or log in: hf auth login")
    return Fault(f"the Hub refuses the push to {repo}: HTTP {status}{reason}; nothing there was changed by it")


def _cut(error: BaseException, repo: str) -> Fault:
    # hf_xet says the status of an answer in words alone.
    found = re.search(r"client error \((\d{3})", str(error))
    status = int(found[1]) if found else None
    if status == 404:
        return Fault(f"the Hub has no Xet store for {repo}; push without it: set HF_HUB_DISABLE_XET=1")
    if status is not None and status not in TRANSIENT:
        return _refused(status, repo)
    if isinstance(error, PermissionError):
        return _refused(403, repo)
    return Fault(f"the connection to the Hub failed ({type(error).__name__})", passes=True)


def seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """What `Retry-After` says, as seconds or as a date, or the Hub's own header of a limit that is reached; None: nothing."""
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    said = headers.get("retry-after", "").strip()
    if said.isdigit():
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def _line(text: str) -> str:
    """One short line without addresses and tokens, also such as are not ours."""
    return " ".join(re.sub(r"https?://\S+", "", re.sub(r"hf_\w{8,}", "...", text)).split())[:200]
