"""What the load test takes for the first token, the end and the failure of a streamed answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from load.answer import AnswerReader, CalledTool, ChatError, error_message
from load.sse import SseEvent


def chunk(delta: dict[str, Any] | None = None, finish_reason: str | None = None) -> SseEvent:
    return SseEvent(json.dumps({"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish_reason}]}))


ROLE = chunk({"role": "assistant", "content": ""})
DONE = SseEvent("[DONE]")
USAGE = SseEvent(json.dumps({"choices": [], "usage": {"completion_tokens": 11}}))


def read(*timed_events: tuple[float, SseEvent]) -> AnswerReader:
    answer = AnswerReader(started_s=100.0)
    for now_s, event in timed_events:
        answer.take(event, now_s)
    return answer


def test_answer_when_the_role_comes_before_the_content_then_the_content_is_the_first_token() -> None:
    answer = read((100.5, ROLE), (102.0, chunk({"content": "Hi"})), (103.0, chunk({"content": "!"})))

    assert answer.ttft_s == 2.0
    assert answer.content == "Hi!"


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning": "Hm"},
        {"reasoning_content": "Hm"},
        {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]},
    ],
)
def test_answer_when_it_begins_with_reasoning_or_a_tool_call_then_that_is_the_first_token(
    delta: dict[str, Any],
) -> None:
    assert read((101.0, ROLE), (102.0, chunk(delta))).ttft_s == 2.0


def test_answer_when_no_delta_says_anything_then_there_is_no_first_token_and_no_fault() -> None:
    answer = read((101.0, ROLE), (102.0, chunk({}, "stop")), (102.0, DONE))

    answer.check_complete()
    assert answer.ttft_s is None
    assert answer.inter_token_s is None


def test_answer_when_the_server_counts_the_tokens_then_its_count_is_taken_over_the_deltas() -> None:
    words = [(101.0 + i, chunk({"content": "a b "})) for i in range(5)]

    assert read(*words).num_tokens == 5
    assert read(*words, (106.0, USAGE)).num_tokens == 11
    # ten tokens after the first, in the four seconds from the first delta to the last
    assert read(*words, (106.0, USAGE)).inter_token_s == pytest.approx(0.4)


def test_answer_when_one_delta_holds_everything_then_nothing_is_said_about_the_time_between_tokens() -> None:
    assert read((101.0, chunk({"content": "all at once"})), (101.0, USAGE)).inter_token_s is None


def test_answer_when_finished_and_done_then_it_is_complete() -> None:
    answer = read((101.0, chunk({"content": "x"}, "length")), (101.0, USAGE), (101.0, DONE))

    answer.check_complete()
    assert answer.finish_reason == "length"
    assert answer.elapsed_s(103.0) == 3.0


def test_answer_when_the_stream_ends_without_done_then_that_is_a_failure() -> None:
    with pytest.raises(ChatError, match=r"without \[DONE\]"):
        read((101.0, chunk({"content": "x"}, "stop"))).check_complete()


def test_answer_when_there_is_no_finish_reason_then_that_is_a_failure() -> None:
    with pytest.raises(ChatError, match="without a finish_reason"):
        read((101.0, chunk({"content": "x"})), (101.0, DONE)).check_complete()


@pytest.mark.parametrize(
    ("event", "sentence"),
    [
        (SseEvent('{"error": {"message": "the engine stopped"}}'), "error in the stream: the engine stopped"),
        (SseEvent('{"message": "gone"}', "error"), "error in the stream: gone"),
        (SseEvent("{oops"), "an event of the stream is not JSON"),
        (SseEvent("[1]"), "an event of the stream is not a JSON object"),
    ],
)
def test_answer_when_an_event_is_an_error_or_no_chunk_then_that_is_a_failure(event: SseEvent, sentence: str) -> None:
    with pytest.raises(ChatError) as failure:
        read((101.0, event))
    assert str(failure.value) == sentence


def test_answer_when_the_stream_goes_on_after_done_then_that_is_a_failure() -> None:
    with pytest.raises(ChatError, match=r"went on after \[DONE\]"):
        read((101.0, DONE), (101.0, ROLE))


def test_answer_when_tool_calls_come_in_pieces_then_they_are_put_together_in_order() -> None:
    def part(index: int, **fields: object) -> SseEvent:
        return chunk({"tool_calls": [{"index": index, **fields}]})

    answer = read(
        (101.0, part(0, id="a", function={"name": "tide", "arguments": ""})),
        (102.0, part(0, function={"arguments": '{"harbour"'})),
        (103.0, part(1, id="b", function={"name": "tide", "arguments": "{}"})),
        (104.0, part(0, function={"arguments": ': "Bremen"}'})),
        (105.0, chunk({}, "tool_calls")),
    )

    assert answer.tool_calls == [CalledTool("a", "tide", '{"harbour": "Bremen"}'), CalledTool("b", "tide", "{}")]
    assert answer.ttft_s == 1.0


def test_error_message_when_the_body_is_not_openais_then_it_is_given_as_it_is() -> None:
    assert error_message({"detail": "Not Found"}) == "{'detail': 'Not Found'}"
    assert error_message({"error": "busy"}) == "busy"
    assert error_message(["x"]) == "['x']"
