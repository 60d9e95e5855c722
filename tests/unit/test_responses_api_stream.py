"""POST /v1/responses, streamed: every event in its order, and how a stream fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import (
    ApiError,
    ContextLengthExceededError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import Alternative, Continued, FinishReason, TokenLogprob
from support.fake_model_server import FOREVER, HELLO, STARTED, FakeModelServer, Pause, answer, finished, token_ids
from support.live_app import wait_until
from support.responses_api import CALL, MODEL, RESPONSES, WEATHER, refusal, respond, serving, settled, stream


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
        yield url, server


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def without_keepalives(told: list[str]) -> list[str]:
    return [kind for kind in told if kind != "keepalive"]


def without_ids(document: object) -> object:
    """Return the document without what no two responses share."""
    if isinstance(document, dict):
        chance = ("id", "call_id", "created_at", "completed_at")
        return {name: without_ids(value) for name, value in document.items() if name not in chance}
    return [without_ids(value) for value in document] if isinstance(document, list) else document


TEXT_ITEM = ["output_item.added", "content_part.added", "{}.delta", "{}.done", "content_part.done", "output_item.done"]


def text_item(name: str) -> list[str]:
    return [kind.format(name) for kind in TEXT_ITEM]


def test_stream_when_it_reasons_and_answers_then_all_events_come_in_openais_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(
        "<|channel|>analysis<|message|>Easy<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )
    events = stream(client)
    assert kinds(events) == [
        "created",
        "in_progress",
        *text_item("reasoning_text"),
        *text_item("output_text"),
        "completed",
    ]


def test_stream_when_a_summary_is_asked_for_then_the_reasoning_comes_as_one_too(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(
        "<|channel|>analysis<|message|>Easy<|end|><|start|>assistant<|channel|>final<|message|>Hello<|return|>"
    )
    events = stream(client, reasoning={"summary": "auto"})
    told = [event for event in events if event.get("output_index") == 0]
    assert kinds(told) == [
        "output_item.added",
        "content_part.added",
        "reasoning_summary_part.added",
        "reasoning_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    _, _, added, _, delta, _, _, text_done, part_done, item_done = told
    assert (added["part"]["text"], delta["delta"], text_done["text"], part_done["part"]["text"]) == ("", *["Easy"] * 3)
    assert {event["item_id"] for event in (added, delta, text_done, part_done)} == {item_done["item"]["id"]}
    assert item_done["item"] == events[-1]["response"]["output"][0]
    assert item_done["item"]["summary"] == [part_done["part"]]


def test_stream_when_it_calls_a_function_then_the_arguments_come_as_deltas(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    events = stream(client, tools=[WEATHER])
    call = [event for event in events if event.get("output_index") == 1]
    added, *deltas, done, item_done = call
    assert added["item"]["status"] == "in_progress"
    assert (added["item"]["name"], added["item"]["arguments"]) == ("weather", "")
    assert {delta["type"] for delta in deltas} == {"response.function_call_arguments.delta"}
    assert "".join(delta["delta"] for delta in deltas) == done["arguments"] == '{"city":"Oslo"}'
    assert item_done["item"] == {**added["item"], "status": "completed", "arguments": '{"city":"Oslo"}'}
    assert {event["item_id"] for event in [*deltas, done]} == {added["item"]["id"]}


@pytest.mark.parametrize(
    "harmony",
    [
        "<|channel|>analysis<|message|>A.<|end|><|start|>assistant<|channel|>final<|message|>B.<|return|>",
        CALL,
        "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL,
        CALL + "<|start|>assistant" + CALL,
        "<|channel|>final<|message|>B.<|end|><|start|>assistant"
        + CALL
        + "<|start|>assistant<|channel|>final<|message|>C.",
        "no markers at all",
    ],
)
@pytest.mark.parametrize("tokens_a_step", [1, 1000])
def test_stream_when_any_turn_is_written_then_its_end_tells_what_the_whole_answer_would(
    client: httpx.Client, server: FakeModelServer, harmony: str, tokens_a_step: int
) -> None:
    server.script = answer(harmony, tokens_a_step=tokens_a_step)
    whole = respond(client, tools=[WEATHER])
    events = stream(client, tools=[WEATHER])
    final = events[-1]["response"]
    assert without_ids(final) == without_ids(whole)
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == final["output"]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == list(
        range(len(final["output"]))
    )
    assert {event["response"]["id"] for event in events if "response" in event} == {final["id"]}


def test_stream_when_the_budget_is_spent_then_it_ends_incomplete(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer("<|channel|>final<|message|>Hel", reason=FinishReason.LENGTH)
    events = stream(client)
    assert kinds(events)[-2:] == ["output_item.done", "incomplete"]
    assert events[-2]["item"]["status"] == "incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}


def test_stream_when_it_begins_then_the_response_is_in_progress_and_empty(client: httpx.Client) -> None:
    created, in_progress, *_, completed = stream(client, instructions="Be brief.")
    assert created["response"] == in_progress["response"]
    assert (created["response"]["status"], created["response"]["output"], created["response"]["usage"]) == (
        "in_progress",
        [],
        None,
    )
    changed = {"status", "output", "usage", "completed_at"}
    assert {
        name for name in completed["response"] if completed["response"][name] != created["response"][name]
    } == changed


def test_stream_when_logprobs_are_asked_for_then_each_delta_and_the_whole_text_have_them(
    client: httpx.Client, server: FakeModelServer
) -> None:
    head, text = token_ids("<|channel|>final<|message|>"), token_ids("Hello there")
    scored = [TokenLogprob(token, -0.5, (Alternative(token, -0.5),)) for token in (*head, *text)]
    steps = [GenerationStep([one.token_id], Continued((one,))) for one in scored]
    server.script = [STARTED, *steps, GenerationStep([], finished(FinishReason.STOP, len(scored)))]
    events = stream(client, include=["message.output_text.logprobs"], top_logprobs=1)
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    [done] = [event for event in events if event["type"] == "response.output_text.done"]
    [message] = events[-1]["response"]["output"]
    told = [entry for delta in deltas for entry in delta["logprobs"]]
    assert [entry["token"] for entry in told] == ["Hello", " there"]
    assert told[0]["top_logprobs"] == [{"token": "Hello", "bytes": list(b"Hello"), "logprob": -0.5}]
    assert done["logprobs"] == message["content"][0]["logprobs"] == told


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        (ServiceUnavailableError("Gone."), ("service_unavailable", "server_error")),
        (TooManyRequestsError("Later."), ("rate_limit_exceeded", "rate_limit_exceeded")),
    ],
)
def test_stream_when_it_fails_after_it_began_then_its_last_events_say_so_and_it_is_kept_so(
    client: httpx.Client, server: FakeModelServer, error: ApiError, codes: tuple[str, str]
) -> None:
    server.script = [*HELLO[:5], error]
    *events, told, last = stream(client)
    assert "error" not in kinds(events)
    nested = {"type": error.type, "code": codes[0], "message": error.message, "param": None}
    assert told == {**nested, "type": "error", "sequence_number": len(events), "error": nested}
    failed = last["response"]
    assert (last["type"], failed["status"]) == ("response.failed", "failed")
    assert failed["error"] == {"code": codes[1], "message": error.message}
    assert client.get(f"{RESPONSES}/{failed['id']}").json() == failed


def test_stream_when_it_breaks_then_its_last_events_are_typed_and_tell_no_secret(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], ValueError("a secret")]
    *_, told, last = stream(client)
    assert (told["error"]["code"], last["response"]["error"]["code"]) == ("internal_error", "server_error")
    assert "secret" not in told["message"] + last["response"]["error"]["message"]


def test_stream_when_it_fails_after_a_long_silence_then_it_was_created_and_is_kept_as_failed(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [Pause(0.3), ServiceUnavailableError("Gone.")]
    events = stream(client)
    assert without_keepalives(kinds(events)) == ["created", "in_progress", "error", "failed"]
    assert events[-2]["error"]["code"] == "service_unavailable"
    assert client.get(f"{RESPONSES}/{events[0]['response']['id']}").json() == events[-1]["response"]


@pytest.mark.parametrize("background", [False, True])
def test_stream_when_the_prompt_is_too_long_then_a_response_has_failed_by_that_and_is_kept_so(
    client: httpx.Client, server: FakeModelServer, background: bool
) -> None:
    server.script = [ContextLengthExceededError("Too long.")]
    events = stream(client, background=background)
    assert kinds(events) == ["created", "queued" if background else "in_progress", "error", "failed"]
    told, failed = events[2]["error"], events[3]["response"]
    assert (told["type"], told["param"]) == ("invalid_request_error", "input")
    assert told["code"] == failed["error"]["code"] == "context_length_exceeded"
    assert told["message"] == failed["error"]["message"]
    assert client.get(f"{RESPONSES}/{failed['id']}").json() == failed
    assert refusal(client, stream=True, temperature=3)["param"] == "temperature"  # others are no such thing


@pytest.mark.parametrize(
    "script", [[Pause(0.45), *HELLO], [*HELLO[:5], Pause(0.45), *HELLO[5:]]], ids=["begin", "amid"]
)
def test_stream_when_the_engine_is_silent_then_events_with_numbers_of_their_own_keep_it_alive(
    client: httpx.Client, server: FakeModelServer, script: list[Any]
) -> None:
    server.script = script
    told = kinds(stream(client))
    assert told[:2] == ["created", "in_progress"]
    assert told.count("keepalive") >= 2
    server.script = HELLO
    assert without_keepalives(told) == kinds(stream(client))


def test_stream_when_the_silence_before_the_answer_is_long_then_the_response_is_there_all_the_while(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [FOREVER]
    with client.stream("POST", RESPONSES, json={"model": MODEL, "input": "Hi", "stream": True}) as response:
        lines = response.iter_lines()  # kept: a generator that is let go of hangs up
        told = next(json.loads(line[6:]) for line in lines if line.startswith("data: "))["response"]
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told
    assert settled(client, told["id"])["status"] == "cancelled"
    assert server.streams[0].abandoned


@pytest.mark.parametrize("script", [[STARTED, FOREVER], [*HELLO[:5], FOREVER]], ids=["prefill", "answer"])
def test_stream_when_the_client_goes_away_then_the_generation_is_cancelled(
    client: httpx.Client, server: FakeModelServer, script: list[Any]
) -> None:
    server.script = script
    with client.stream("POST", RESPONSES, json={"model": MODEL, "input": "Hi", "stream": True}) as response:
        next(response.iter_lines())
    assert wait_until(lambda: server.streams[0].abandoned) < 1.0


def test_whole_answer_when_the_client_goes_away_then_the_generation_is_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with pytest.raises(httpx.ReadTimeout):
        client.post(RESPONSES, json={"model": MODEL, "input": "Hi"}, timeout=0.3)
    assert wait_until(lambda: server.streams[0].abandoned) < 1.0
