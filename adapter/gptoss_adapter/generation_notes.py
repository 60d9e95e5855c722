"""What the log line tells of a request's generations.

Stage: 4 schedule … 6, at a generation's end.
Owns: which outcome an end is, the names of the notes, how several generations of a request add up.
Does not know: how a generation comes to its end.
"""

from __future__ import annotations

import asyncio

from gptoss_adapter.errors import InvalidRequestError, TooManyRequestsError
from gptoss_adapter.metrics import GenerationMeter
from gptoss_adapter.schemas.answers import FinishReasonName, Usage
from gptoss_adapter.stats_activity import Outcome
from gptoss_backend.contract import Finished


def outcome_of(error: BaseException | None, finish_reason: FinishReasonName | None) -> Outcome:
    """Return how a generation ended. error: that left it. finish_reason: None: it is not over."""
    if error is None and finish_reason is not None:
        return Outcome(finish_reason)
    if isinstance(error, (InvalidRequestError, TooManyRequestsError)):
        return Outcome.REFUSED
    # a client that goes away cancels the task, or leaves the generator unfinished
    has_left = error is None or isinstance(error, (asyncio.CancelledError, GeneratorExit))
    return Outcome.CANCELLED if has_left else Outcome.ERROR


def note_end(
    notes: dict[str, object], outcome: Outcome, meter: GenerationMeter, finished: Finished | None, usage: Usage | None
) -> None:
    """Add a generation to its request's notes. finished: None: it was cut. usage: None: it is not over."""
    if notes.get("outcome") not in (Outcome.ERROR.value, Outcome.REFUSED.value):  # the cause, not what it led to
        notes["outcome"] = outcome.value
    if usage is not None:
        notes["prompt_tokens"] = usage.prompt_tokens
        notes["cached_tokens"] = usage.prompt_tokens_details.cached_tokens
    if finished is not None:
        notes.setdefault("queue_ms", round(finished.timings.queue_s * 1000, 1))
    num_before = notes.get("completion_tokens", 0)
    assert isinstance(num_before, int)  # noqa: S101 (nobody else writes it)
    notes["completion_tokens"] = num_before + meter.num_tokens
    if meter.first_token_s is not None:
        notes.setdefault("ttft_ms", round(meter.first_token_s * 1000, 1))
