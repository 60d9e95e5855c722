"""What a step's tokens become, without an engine: ends, faults, first tokens, last words."""

from __future__ import annotations

import pytest

from gptoss_backend.contract import Finished, FinishReason, GenerationErrorCode, SamplingParams, Started, TokenLogprob
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.news import News, expiry, finish_reason, news_of
from gptoss_backend.engine.observations import Measure
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.step import Choice, Step
from support.toy_mask import ToyMask


def sequence_of(name: str, *generated: int, max_tokens: int = 9, edits: LogitEdits | None = None) -> Sequence:
    """Return a sequence that runs, submitted at 1 s, scheduled at 2 s, with these tokens behind its prompt of three."""
    request = GenerationRequest(name, [5, 5, 5], SamplingParams())
    sequence = Sequence(request, max_tokens=max_tokens, stop_tokens=frozenset({7}), edits=edits, row=0)
    sequence.token_ids.extend(generated)
    sequence.submitted_s, sequence.scheduled_s = 1.0, 2.0
    return sequence


def news(*sequences: Sequence, admitted: tuple[Sequence, ...] = (), logprobs: tuple[TokenLogprob, ...] = ()) -> News:
    """Return what is said at 10 s of a step that gave each its latest token."""
    choices = [Choice(sequence, (sequence.token_ids[-1],), logprobs) for sequence in sequences]
    return news_of(Step(decodes=list(sequences), admitted=list(admitted)), choices, 10.0)


def test_news_when_answers_go_on_begin_and_end_then_each_is_told_so() -> None:
    begins, goes_on, ends = sequence_of("begins", 4), sequence_of("goes on", 4, 5), sequence_of("ends", 4, 7)
    goes_on.first_token_s = ends.first_token_s = 8.0
    told = news(begins, goes_on, ends, admitted=(begins,))
    assert [(delta.request_id, delta.token_ids) for delta in told.deltas] == [("begins", (4,)), ("goes on", (5,))]
    assert told.deltas[0].event == Started(prompt_tokens=3, cached_tokens=0)
    (last,) = told.finished
    assert isinstance(last.event, Finished)
    assert (last.token_ids, last.event.finish_reason) == ((7,), FinishReason.STOP)
    assert (told.ended, told.failed, told.num_tokens) == ([ends], [], 3)


def test_news_when_times_are_measured_then_they_are_those_of_the_step() -> None:
    begins, ends = sequence_of("begins", 4), sequence_of("ends", 4, 5, 7)
    ends.first_token_s = 8.0
    told = news(begins, ends, admitted=(begins,))
    assert told.measures == [
        (Measure.PROMPT_TOKENS, 3),
        (Measure.QUEUE_S, 1.0),
        (Measure.FIRST_TOKEN_S, 9.0),
        (Measure.OUTPUT_TOKEN_S, 1.0),
    ]
    assert begins.first_token_s == 10.0
    assert news(begins).measures == []


def test_news_when_a_request_was_cancelled_while_its_step_was_under_way_then_nothing_is_said_of_it() -> None:
    gone = sequence_of("gone", 4)
    gone.row = -1
    told = news(gone, admitted=(gone,))
    assert (told.deltas, told.finished, told.ended, told.num_tokens) == ([], [], [], 0)


def test_news_when_a_grammar_has_failed_then_its_request_ends_with_the_error() -> None:
    grammar = Grammar(ToyMask([]), "broken")
    broken = sequence_of("broken", 4, edits=LogitEdits.of(SamplingParams(), [5], frozenset(), grammar))
    grammar.leave_nothing()
    told = news(broken, sequence_of("fine", 4))
    assert [delta.request_id for delta in told.deltas] == ["fine"]
    assert [(delta.request_id, delta.error) for delta in told.failed] == [("broken", grammar.fault)]
    assert (told.ended, told.num_tokens) == ([broken], 1)


def test_news_when_log_probabilities_are_asked_for_then_the_prompts_come_with_the_first_token_only() -> None:
    sequence = sequence_of("a", 4)
    sequence.prompt_logprobs.append(TokenLogprob(5, -1.0))
    logprobs = (TokenLogprob(4, -2.0),)
    first, second = news(sequence, logprobs=logprobs).deltas, news(sequence, logprobs=logprobs).deltas
    assert [delta.logprobs for delta in first + second] == [logprobs] * 2
    assert [delta.prompt_logprobs for delta in first + second] == [(TokenLogprob(5, -1.0),), ()]


@pytest.mark.parametrize(
    ("generated", "reason"),
    [((4, 7), FinishReason.STOP), ((4, 4, 4), FinishReason.LENGTH), ((4, 4), None)],
)
def test_finish_reason_when_asked_then_stop_tokens_come_before_the_length(
    generated: tuple[int, ...], reason: FinishReason | None
) -> None:
    assert finish_reason(sequence_of("a", *generated, max_tokens=3), generated[-1]) == reason


@pytest.mark.parametrize(
    ("scheduled_s", "where"), [(None, "while it waited"), (2.0, "(tokens generated: 2)")], ids=["waits", "runs"]
)
def test_expiry_when_time_has_run_out_then_the_sentence_says_how_far_it_came(
    scheduled_s: float | None, where: str
) -> None:
    sequence = sequence_of("a", 4, 4)
    sequence.deadline_s, sequence.scheduled_s = 3.5, scheduled_s
    last = expiry(sequence)
    assert last.error is not None
    assert last.error_code == GenerationErrorCode.DEADLINE_EXCEEDED
    assert last.error == f"the request's time of 2.5 s ran out {where}"
