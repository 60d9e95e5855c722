"""What belongs to one HTTP request from its first byte to its log line.

Stage: 1 route.
Owns: the request id (where it comes from, where every other module finds it), the record behind the log line.
Does not know: chats, models, Triton.
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final

REQUEST_ID_HEADER: Final = "x-request-id"
KEY_NOTE: Final = "key"
"""Among the notes: the name of the key that a request came with."""
PROFILE_HEADER: Final = "x-gptoss-profile"
"""Of the response: the profile it was made at."""
_SANE_ID: Final = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request as its log line will tell it."""

    request_id: str
    started_at: float = field(default_factory=time.perf_counter)
    """perf_counter seconds, when its head had arrived."""
    generating_since: float | None = None
    """perf_counter seconds, when what came between two generations was over; None: this is the first."""
    status: int = 0
    """0: no response was begun."""
    notes: dict[str, object] = field(default_factory=dict)
    """What the route adds to the log line, by name."""
    may_hurry: bool = True
    """Whether it may ask for a priority before the others'."""
    counted: ExitStack = field(default_factory=ExitStack)
    """Ends that it is counted among those of its key; who takes it over (`pop_all`) goes on to be."""
    count_answers: Callable[[int], None] = lambda num_answers: None
    """Count it as so many answers from now on. Raises InvalidRequestError, TooManyRequestsError, as its key has it."""
    may_be_repeated: bool = True
    """Whether trying again does nothing twice that is better done once. Else clients are told not to, by themselves."""
    num_went_on: int = 0
    """How many of its answers took two generations: the model was told something amid them."""
    goes_on: asyncio.Task[None] | None = None
    """What it set going and what is not over with its answer."""


_current: ContextVar[RequestRecord | None] = ContextVar("request_record", default=None)


def begin_record(offered_id: str | None) -> RequestRecord:
    """Start the record of the request this task serves, under the id the client offered where that is sane."""
    sane = offered_id is not None and _SANE_ID.fullmatch(offered_id) is not None
    record = RequestRecord(offered_id if sane and offered_id else f"req_{uuid.uuid4().hex}")
    _current.set(record)
    return record


def current_record() -> RequestRecord:
    """Return the record of the request this task serves. Only inside a request."""
    record = _current.get()
    if record is None:
        raise LookupError("no HTTP request is being served in this task")
    return record


def current_request_id() -> str:
    """Return the id of the request this task serves, "-" outside any."""
    record = _current.get()
    return "-" if record is None else record.request_id


def current_key_name() -> str | None:
    """Return the name of the key that the request came with; None: it needs none, or there is no request."""
    record = _current.get()
    name = None if record is None else record.notes.get(KEY_NOTE)
    return None if name is None else str(name)


def may_hurry() -> bool:
    """Return whether the request may ask for a priority before the others'."""
    record = _current.get()
    return record is None or record.may_hurry
