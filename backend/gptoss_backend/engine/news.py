"""What there is to say of requests: what a step's tokens become, and last words.

Stage 5 of a request: step. Owns: who is told what, when an answer is at its end.
Does not know: who listens, how tokens were chosen, threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gptoss_backend.contract import FinishReason, GenerationErrorCode, TokenLogprob
from gptoss_backend.engine.observations import Measure
from gptoss_backend.engine.sequence import Sequence, TokenDelta
from gptoss_backend.engine.step import Choice, Step


@dataclass(slots=True)
class News:
    """What came of a step."""

    now_s: float
    """When it was done."""
    measures: list[tuple[Measure, float]]
    deltas: list[TokenDelta] = field(default_factory=list)
    """Of the requests that go on, the beginning ones among them."""
    finished: list[TokenDelta] = field(default_factory=list)
    """The last words on those that are done."""
    failed: list[TokenDelta] = field(default_factory=list)
    """The last words on those whose grammar failed."""
    ended: list[Sequence] = field(default_factory=list)
    """Of both."""
    num_tokens: int = 0

    def begin(self, sequence: Sequence) -> tuple[TokenLogprob, ...]:
        """Note a sequence's first token, in the sequence, too; returns what is told of its prompt with it."""
        sequence.first_token_s = self.now_s
        self.measures.append((Measure.FIRST_TOKEN_S, self.now_s - sequence.submitted_s))
        return tuple(sequence.prompt_logprobs)

    def finish(self, sequence: Sequence, last: TokenDelta) -> None:
        """Note that a sequence's answer is done."""
        self.finished.append(last)
        self.ended.append(sequence)
        if sequence.num_generated > 1 and sequence.first_token_s is not None:
            between_s = (self.now_s - sequence.first_token_s) / (sequence.num_generated - 1)
            self.measures.append((Measure.OUTPUT_TOKEN_S, between_s))

    def fail(self, sequence: Sequence, fault: str, code: GenerationErrorCode | None) -> None:
        """Note that a sequence's grammar has failed."""
        self.failed.append(failure(sequence, fault, code))
        self.ended.append(sequence)


def news_of(step: Step, choices: list[Choice], now_s: float) -> News:
    """Return what came of a step that was done at `now_s`; notes in its sequences when their first token came.

    choices: the next tokens, which their sequences have by now.
    """
    news = News(now_s, _measures_of_admitted(step))
    started = (TokenDelta(s.request.request_id, event=s.started()) for s in step.admitted if s.has_row)
    deltas = {delta.request_id: delta for delta in started}
    for sequence, tokens, logprobs in choices:
        if not sequence.has_row:  # cancelled, or out of time, while the step was under way
            continue
        if sequence.edits is not None and sequence.edits.fault is not None:
            news.fail(sequence, sequence.edits.fault, sequence.edits.fault_code)
            continue
        news.num_tokens += len(tokens)
        scores = news.begin(sequence) if sequence.first_token_s is None else ()
        request_id = sequence.request.request_id
        reason = finish_reason(sequence, tokens[-1])
        if reason is None:
            event = deltas[request_id].event if request_id in deltas else None
            deltas[request_id] = TokenDelta(request_id, tokens, event, logprobs=logprobs, prompt_logprobs=scores)
        else:
            end = sequence.finished(reason)
            news.finish(sequence, TokenDelta(request_id, tokens, end, logprobs=logprobs, prompt_logprobs=scores))
    news.deltas = list(deltas.values())
    return news


def finish_reason(sequence: Sequence, token: int) -> FinishReason | None:
    """Return why an answer ends with `token`, its latest; None where it goes on."""
    if token in sequence.stop_tokens or (sequence.edits is not None and sequence.edits.is_finished):
        return FinishReason.STOP
    return FinishReason.LENGTH if sequence.num_generated >= sequence.max_tokens else None


def cancellation(sequence: Sequence) -> TokenDelta:
    """Return the last words on a request whose client has left."""
    return TokenDelta(sequence.request.request_id, event=sequence.finished(FinishReason.CANCELLED))


def expiry(sequence: Sequence) -> TokenDelta:
    """Return the last words on a request whose time has run out."""
    allowed_s = sequence.deadline_s - sequence.submitted_s
    where = "while it waited" if sequence.scheduled_s is None else f"(tokens generated: {sequence.num_generated})"
    sentence = f"the request's time of {allowed_s:g} s ran out {where}"
    return failure(sequence, sentence, GenerationErrorCode.DEADLINE_EXCEEDED)


def failure(sequence: Sequence, sentence: str, code: GenerationErrorCode | None = None) -> TokenDelta:
    """Return the last words on a request that ends with an error."""
    return TokenDelta(sequence.request.request_id, error=sentence, error_code=code)


def _measures_of_admitted(step: Step) -> list[tuple[Measure, float]]:
    measures: list[tuple[Measure, float]] = []
    for sequence in step.admitted:
        measures.append((Measure.PROMPT_TOKENS, sequence.num_prompt))
        if sequence.scheduled_s is not None:
            measures.append((Measure.QUEUE_S, sequence.scheduled_s - sequence.submitted_s))
    return measures
