"""An answer that goes on behind its first end: another generation, with more for the model to read before it.

Stage: 4 schedule … 6, driven from the adapter.
Owns: the prompt of the second generation, the tokens and seconds that are left for it, the sums over both.
Does not know: why an answer goes on; streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gptoss_adapter.inference import PromptIds
from gptoss_adapter.raw_prompts import prompt_ids
from gptoss_adapter.schemas.answers import Usage
from gptoss_backend.contract import Finished, SamplingParams, Started


class GoingOn:
    """The second generation of an answer; there is no third."""

    def __init__(self, before: Finished, prompt: PromptIds, token_ids: Sequence[int], more_ids: Sequence[int]) -> None:
        """before: the end of the first generation. token_ids: what that brought. more_ids: to put behind them."""
        self.before = before
        self.prompt = PromptIds(prompt.raw + prompt_ids([*token_ids, *more_ids]).raw)
        self._num_tokens = len(token_ids)
        self._started: Started | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the engine took it up."""
        return self._started is not None

    @property
    def usage(self) -> Usage:
        """What its prompt cost: nothing, as long as the engine did not take it up."""
        num, num_cached = (self._started.prompt_tokens, self._started.cached_tokens) if self._started else (0, 0)
        return Usage.of(prompt_tokens=num, cached_tokens=num_cached, completion_tokens=0, reasoning_tokens=0)

    def sampling(self, sampling: SamplingParams) -> SamplingParams:
        """Return how the rest of the tokens are chosen, after the whole answer's sampling."""
        return replace(
            sampling,
            max_tokens=None if sampling.max_tokens is None else sampling.max_tokens - self._num_tokens,
            min_tokens=max(sampling.min_tokens - self._num_tokens, 0),
            timeout_s=None if sampling.timeout_s is None else sampling.timeout_s - self.before.timings.total_s,
            prompt_logprobs=None,  # they are told, and what stands behind is no prompt of the request's
        )

    def begin(self, started: Started) -> Started:
        """Take note that the engine took it up; returns the beginning of the whole answer, with both prompts' cost."""
        self._started = started
        return replace(
            started,
            prompt_tokens=self.before.prompt_tokens + started.prompt_tokens,
            cached_tokens=self.before.cached_tokens + started.cached_tokens,
        )

    def whole(self, last: Finished) -> Finished:
        """Return the end of the whole answer, with what both generations have cost."""
        before = self.before
        return replace(
            last,
            prompt_tokens=before.prompt_tokens + last.prompt_tokens,
            cached_tokens=before.cached_tokens + last.cached_tokens,
            completion_tokens=before.completion_tokens + last.completion_tokens,
            timings=replace(before.timings, total_s=before.timings.total_s + last.timings.total_s),
        )


def may_go_on(sampling: SamplingParams, finished: Finished, num_tokens: int) -> bool:
    """Say whether an answer that has ended may have any more tokens and seconds. num_tokens: that it has."""
    is_spent = sampling.max_tokens is not None and num_tokens >= sampling.max_tokens
    return not is_spent and (sampling.timeout_s is None or finished.timings.total_s < sampling.timeout_s)
