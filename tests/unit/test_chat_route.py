"""POST /v1/chat/completions over a real socket, a scripted model server in Triton's place."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date

import httpx
import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import FinishReason
from gptoss_backend.settings_sources import load_settings
from support.chat_api import CALL, CHAT, WEATHER, ask, joined, stream
from support.fake_model_server import (
    FOREVER,
    HELLO,
    STARTED,
    FakeModelServer,
    Pause,
    Scene,
    answer,
    finished,
    token_ids,
)
from support.live_app import chat_body, live

SETTINGS = load_settings({"model": "demo", "adapter": {"keepalive_s": 0.1}}, environ={})


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with live(create_app(SETTINGS, model_server=server, today=lambda: date(2026, 11, 23))) as url:
        yield url, server
    assert server.closed


# --- whole answers --------------------------------------------------------------------------------------------------


def test_answer_when_whole_then_it_is_openais_shape(client: httpx.Client) -> None:
    document = ask(client)
    assert document.pop("id").startswith("chatcmpl-")
    assert document.pop("system_fingerprint").startswith("fp_")
    assert isinstance(document.pop("created"), int)
    num_tokens = len(token_ids("<|channel|>analysis<|message|>Easy.<|end|>"))
    assert document == {
        "object": "chat.completion",
        "model": "gpt-oss-demo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello!", "refusal": None, "reasoning": "Easy."},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": len(HELLO) - 1,
            "total_tokens": 7 + len(HELLO) - 1,
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": num_tokens},
        },
    }


def test_answer_when_it_calls_a_tool_then_the_call_is_whole(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(CALL)
    choice = ask(client, tools=[WEATHER])["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["reasoning"] == "Look it up."
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}


def test_answer_when_the_budget_ends_in_reasoning_then_content_is_empty_and_length(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>analysis<|message|>So many", reason=FinishReason.LENGTH)
    choice = ask(client)["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": "", "refusal": None, "reasoning": "So many"}


def test_answer_when_the_budget_ends_in_a_call_then_length(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(CALL.removesuffix('"}<|call|>'), reason=FinishReason.LENGTH)
    choice = ask(client, tools=[WEATHER])["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo'


def test_answer_when_the_model_is_named_by_its_alias_then_the_real_name_answers(client: httpx.Client) -> None:
    assert ask(client, model="gpt-oss")["model"] == "gpt-oss-demo"


def test_request_when_sent_then_both_steps_get_what_is_theirs(client: httpx.Client, server: FakeModelServer) -> None:
    client.post(CHAT, json=chat_body(temperature=0, max_tokens=9), headers={"X-Request-Id": "mine"})
    (chat,), (sampling,) = server.chats, server.samplings
    assert chat.date == "2026-11-23"
    assert chat.messages[0].content == "Hi"
    assert (sampling.temperature, sampling.max_tokens) == (0, 9)
    assert server.request_ids == ["mine", "mine"]


@pytest.mark.parametrize("place", ["request", "message"])
def test_request_when_it_has_more_fields_than_any_then_it_is_refused_at_once(client: httpx.Client, place: str) -> None:
    many = {f"x{number}": 0 for number in range(100_000)}
    body = chat_body(**many) if place == "request" else chat_body(messages=[{"role": "user", "content": "Hi"} | many])
    response = client.post(CHAT, json=body)
    assert response.status_code == 400
    where = "the request body" if place == "request" else "'messages[0]'"
    assert response.json()["error"]["message"] == f"Too many fields in {where}: object should have at most 256 entries."


# --- streams --------------------------------------------------------------------------------------------------------


def test_stream_when_whole_then_the_order_is_role_deltas_finish_usage_done(client: httpx.Client) -> None:
    *chunks, usage, done = stream(client, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    assert len({chunk["created"] for chunk in [*chunks, usage]}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[1:] == [{"reasoning": "Easy"}, {"reasoning": "."}, {"content": "Hello"}, {"content": "!"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 5 + ["stop"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(HELLO) - 1


def test_stream_when_usage_is_not_asked_for_then_no_chunk_has_it(client: httpx.Client) -> None:
    assert all("usage" not in chunk for chunk in stream(client)[:-1])


def test_stream_when_tokens_come_together_then_each_kind_is_one_chunk(
    client: httpx.Client, server: FakeModelServer
) -> None:
    text = "<|channel|>analysis<|message|>A b c.<|end|><|start|>assistant<|channel|>final<|message|>D e f.<|return|>"
    server.script = answer(text, tokens_a_step=100)
    deltas = [chunk["choices"][0]["delta"] for chunk in stream(client)[:-1]]
    assert deltas[1:-1] == [{"reasoning": "A b c."}, {"content": "D e f."}]


def test_stream_when_it_calls_a_tool_then_id_and_name_come_first(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(CALL)
    chunks = stream(client, tools=[WEATHER])[:-1]
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["id"].startswith("call_")
    assert (calls[0]["index"], calls[0]["type"], calls[0]["function"]["name"]) == (0, "function", "weather")
    assert all(set(call) == {"index", "function"} and set(call["function"]) == {"arguments"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city":"Oslo"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("opening", [[STARTED, Pause(0.25)], [Pause(0.25), STARTED]], ids=["prefill", "queue"])
def test_stream_when_the_first_token_is_late_then_comments_keep_it_alive(
    client: httpx.Client, server: FakeModelServer, opening: list[Scene]
) -> None:
    server.script = [*opening, *HELLO[1:]]
    text = client.post(CHAT, json=chat_body(stream=True)).text
    assert text.startswith(": keep-alive\n\n: keep-alive\n\ndata: ")
    assert text.index('"role"') < text.index("Easy")


def test_stream_when_the_first_response_brings_a_token_then_it_is_not_held_back(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ids = token_ids("<|channel|>final<|message|>Hi")
    server.script = [GenerationStep(ids, STARTED.event), FOREVER]
    with client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
        received = ""
        for text in response.iter_text():
            received += text
            assert "keep-alive" not in received
            if '"content":"Hi"' in received:
                break


def test_stream_when_a_character_spans_tokens_then_it_comes_whole(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>final<|message|>🧑‍🚀é日本<|return|>")
    chunks = stream(client)[:-1]
    assert joined(chunks, "content") == "🧑‍🚀é日本"


# --- malformed answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_answer_when_tokens_are_random_then_it_still_ends_well_and_both_ways_agree(
    client: httpx.Client, server: FakeModelServer, seed: int
) -> None:
    source = random.Random(seed)
    special = [199998, 199999, *range(200000, 200020), 201087]
    ids = [source.choice(special) if source.random() < 0.3 else source.randrange(201088) for _ in range(200)]
    steps = [GenerationStep(ids[at : at + 3]) for at in range(0, 198, 3)]
    server.script = [STARTED, *steps, GenerationStep(ids[198:], finished(FinishReason.LENGTH, 200))]
    message = ask(client)["choices"][0]["message"]
    chunks = stream(client)[:-1]
    assert joined(chunks, "content") == (message["content"] or "")
    assert joined(chunks, "reasoning") == message.get("reasoning", "")
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


def test_answer_when_the_model_stops_at_once_then_it_is_empty(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer("<|return|>")
    assert ask(client)["choices"][0]["message"]["content"] == ""
    assert len(stream(client)) == 3


def test_answer_when_it_ends_in_call_without_a_call_then_stop(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer("<|channel|>final<|message|>Hm<|call|>")
    choice = ask(client)["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "Hm")
    assert "tool_calls" not in choice["message"]
