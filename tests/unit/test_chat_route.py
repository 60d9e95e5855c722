"""POST /v1/chat/completions over a real socket, a scripted model server in Triton's place."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI, pydantic_function_tool
from pydantic import BaseModel

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import FinishReason
from gptoss_backend.settings_sources import load_settings
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
from support.live_app import chat_body, live, sse_documents, wait_until

SETTINGS = load_settings({"model": "demo", "adapter": {"keepalive_s": 0.1}}, environ={})
CHAT = "/v1/chat/completions"
CALL = (
    "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant<|channel|>commentary to=functions.weather"
    ' <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
)

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def base_url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with live(create_app(SETTINGS, model_server=server, today=lambda: date(2026, 11, 23))) as url:
        yield url, server
    assert server.closed


@pytest.fixture
def server(base_url_and_server: tuple[str, FakeModelServer]) -> FakeModelServer:
    server = base_url_and_server[1]
    server.forget()
    return server


@pytest.fixture
def client(base_url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url_and_server[0], timeout=10) as client:
        yield client


def ask(client: httpx.Client, **fields: object) -> dict[str, Any]:
    response = client.post(CHAT, json=chat_body(**fields))
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


def stream(client: httpx.Client, **fields: object) -> list[Any]:
    response = client.post(CHAT, json=chat_body(stream=True, **fields))
    assert response.status_code == 200, response.text
    return sse_documents(response)


def joined(chunks: list[Any], name: str) -> str:
    return "".join(chunk["choices"][0]["delta"].get(name, "") for chunk in chunks if chunk["choices"])


def outcome_count(client: httpx.Client, outcome: str) -> float:
    return metric(client, f'gptoss_requests_total{{model="gpt-oss-demo",outcome="{outcome}",profile="balanced"}}')


def metric(client: httpx.Client, series: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{series} ")]
    return float(lines[0].split()[-1]) if lines else 0.0


def in_flight(client: httpx.Client) -> float:
    labels = '{model="gpt-oss-demo",profile="balanced"}'
    return sum(metric(client, f"gptoss_num_requests_{state}{labels}") for state in ("waiting", "running"))


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


# --- failures -------------------------------------------------------------------------------------------------------

ENDINGS: list[tuple[list[Scene], str]] = [
    ([ServiceUnavailableError("Gone.")], "service_unavailable"),
    ([], "internal_error"),
    ([ValueError("a secret")], "internal_error"),
    ([GenerationStep([], finished(FinishReason.CANCELLED, 2))], "service_unavailable"),
]


@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_stream_when_it_fails_after_tokens_then_an_error_event_ends_it(
    client: httpx.Client, server: FakeModelServer, ending: list[Scene], code: str
) -> None:
    server.script = [*HELLO[:5], *ending]
    errors_before = outcome_count(client, "error")
    documents = stream(client)
    assert joined(documents[:-1], "reasoning") == "Easy"
    assert documents[-1]["error"]["code"] == code
    assert server.streams[0].cancelled
    wait_until(lambda: outcome_count(client, "error") == errors_before + 1)


@pytest.mark.parametrize(("ending", "code"), ENDINGS)
def test_answer_when_it_fails_after_tokens_then_it_is_an_error(
    client: httpx.Client, server: FakeModelServer, ending: list[Scene], code: str
) -> None:
    server.script = [*HELLO[:5], *ending]
    response = client.post(CHAT, json=chat_body())
    assert response.status_code in (500, 503)
    assert response.json()["error"]["code"] == code
    assert "secret" not in response.text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequestError("Odd."), 400),
        (TooManyRequestsError("Full."), 429),
        (ServiceUnavailableError("Gone."), 503),
        (ValueError("a secret"), 500),
    ],
)
@pytest.mark.parametrize("before", [[], [STARTED]], ids=["queue", "prefill"])
def test_request_when_it_fails_before_the_first_token_then_plain_json_with_its_status(
    client: httpx.Client,
    server: FakeModelServer,
    before: list[Scene],
    streamed: bool,
    error: Exception,
    status: int,
) -> None:
    server.script = [*before, error]
    response = client.post(CHAT, json=chat_body(stream=streamed))
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert "secret" not in response.text


def test_stream_when_the_first_response_is_not_started_then_500(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = HELLO[1:]
    assert client.post(CHAT, json=chat_body(stream=True)).status_code == 500


# --- the client goes away -------------------------------------------------------------------------------------------


@contextmanager
def sent(url: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """Send the request on a bare socket, and close the connection at the end."""
    request = httpx.Request("POST", url + CHAT, json=body)
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with socket.create_connection((request.url.host, request.url.port or 80)) as connection:
        connection.sendall(f"{head}Content-Length: {len(request.content)}\r\n\r\n".encode() + request.content)
        yield connection


def hang_up_after(url: str, body: dict[str, Any], server: FakeModelServer, marker: bytes | None) -> None:
    """Send the request, wait until it is submitted and `marker` came, and close the connection."""
    num_before = len(server.streams)
    with sent(url, body) as connection:
        wait_until(lambda: len(server.streams) > num_before)
        received = b""
        while marker is not None and marker not in received:
            piece = connection.recv(4096)
            assert piece, received
            received += piece


@pytest.mark.parametrize(
    ("streamed", "script", "marker"),
    [
        (True, [*HELLO[:5], FOREVER], b"reasoning"),
        (True, [STARTED, FOREVER], b"keep-alive"),
        (True, [FOREVER], None),
        (False, [FOREVER], None),
        (False, [*HELLO[:5], FOREVER], None),
    ],
    ids=["streaming", "prefill", "queued", "whole-queued", "whole"],
)
def test_client_when_it_goes_away_then_the_generation_is_cancelled_at_once(
    client: httpx.Client, server: FakeModelServer, streamed: bool, script: list[Scene], marker: bytes | None
) -> None:
    server.script = script
    cancelled_before = outcome_count(client, "cancelled")
    hang_up_after(str(client.base_url).rstrip("/"), chat_body(stream=streamed), server, marker)
    assert wait_until(lambda: server.streams[0].abandoned) < 0.25
    wait_until(lambda: outcome_count(client, "cancelled") == cancelled_before + 1)
    assert in_flight(client) == 0


@pytest.mark.parametrize("fields", [{"stream": True}, {}, {"n": 3}], ids=["streamed", "whole", "several"])
def test_client_when_it_goes_away_before_its_prompt_is_there_then_nobody_waits_for_that(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any]
) -> None:
    server.preprocess_takes_s = 60.0
    with sent(str(client.base_url).rstrip("/"), chat_body(**fields)):
        wait_until(lambda: server.num_rendering == 1)
    assert wait_until(lambda: server.num_rendering == 0) < 0.25
    assert server.streams == []


def test_client_when_a_hundred_go_away_then_nothing_stays_in_flight(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    for _ in range(100):
        hang_up_after(str(client.base_url).rstrip("/"), chat_body(stream=True), server, b"reasoning")
    wait_until(lambda: len(server.streams) == 100 and all(one.abandoned for one in server.streams))
    wait_until(lambda: in_flight(client) == 0)


def test_turn_when_it_ends_by_itself_then_its_stream_is_read_to_the_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ask(client)
    stream(client)
    wait_until(lambda: all(one.ended for one in server.streams))
    assert not any(one.abandoned for one in server.streams)


# --- the official client --------------------------------------------------------------------------------------------


def test_openai_client_when_it_asks_then_it_reads_the_answer(openai: OpenAI) -> None:
    completion = openai.chat.completions.create(model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}])
    assert completion.choices[0].message.content == "Hello!"
    assert completion.choices[0].message.reasoning == "Easy."  # type: ignore[attr-defined]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7 + len(HELLO) - 1


def test_openai_client_when_it_streams_then_it_reads_every_chunk(openai: OpenAI) -> None:
    chunks = list(
        openai.chat.completions.create(model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}], stream=True)
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello!"
    assert chunks[-1].choices[0].finish_reason == "stop"


class Weather(BaseModel):
    """Tell the weather."""

    city: str


def created(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401 (a message of the client's)
    return openai.chat.completions.create(model="gpt-oss-demo", messages=messages, tools=tools).choices[0].message


def parsed(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401
    return openai.chat.completions.parse(model="gpt-oss-demo", messages=messages, tools=tools).choices[0].message


def streamed(openai: OpenAI, messages: list[Any], tools: list[Any]) -> Any:  # noqa: ANN401
    with openai.chat.completions.stream(model="gpt-oss-demo", messages=messages, tools=tools) as told:
        return told.get_final_completion().choices[0].message


@pytest.mark.parametrize("ask_for", [created, parsed, streamed])
def test_openai_client_when_it_sends_an_answer_back_then_it_is_taken(
    openai: OpenAI, server: FakeModelServer, ask_for: Callable[..., Any]
) -> None:
    # parse and stream add fields of their own to what they return: parsed, parsed_arguments, index
    server.script = answer(CALL)
    messages: list[Any] = [{"role": "user", "content": "Weather?"}]
    tools: list[Any] = [pydantic_function_tool(Weather, name="weather")]
    message = ask_for(openai, messages, tools)
    assert message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "Snow"}]
    server.script = HELLO
    assert openai.chat.completions.create(model="gpt-oss-demo", messages=messages).choices[0].message.content
    _, sent_back, _ = server.chats[-1].messages
    assert ask_for is streamed or sent_back.reasoning == "Look it up."  # the helper for streams joins what it knows
    assert sent_back.tool_calls[0].arguments == '{"city":"Oslo"}'


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the client's own, of what it sends
def test_openai_client_when_it_sends_a_parsed_answer_back_then_it_is_taken(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = answer('<|channel|>final<|message|>{"city":"Oslo"}<|return|>')
    messages: list[Any] = [{"role": "user", "content": "Where?"}]
    parse = openai.chat.completions.parse
    message = parse(model="gpt-oss-demo", messages=messages, response_format=Weather).choices[0].message
    assert message.parsed == Weather(city="Oslo")
    messages += [message, {"role": "user", "content": "Sure?"}]
    server.script = HELLO
    assert openai.chat.completions.create(model="gpt-oss-demo", messages=messages).choices[0].message.content
    assert server.chats[-1].messages[1].content == '{"city":"Oslo"}'


def test_openai_client_when_a_stream_fails_then_it_raises(openai: OpenAI, server: FakeModelServer) -> None:
    server.script = [*HELLO[:5], ServiceUnavailableError("Gone.")]
    streamed = openai.chat.completions.create(
        model="gpt-oss-demo", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    with pytest.raises(APIError, match="Gone"):
        list(streamed)
