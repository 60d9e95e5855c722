"""What a chat may ask for beyond one plain answer, over a socket: choices, stop strings, log probabilities, formats."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from pydantic import BaseModel

from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import FinishReason, SamplingParams, ToolChoiceMode
from gptoss_backend.settings_sources import load_settings
from support.chat_api import CHAT, WEATHER, ask, joined, stream
from support.fake_model_server import (
    CACHED_TOKENS,
    FOREVER,
    HELLO,
    PROMPT_TOKENS,
    STARTED,
    FakeModelServer,
    Pause,
    Scene,
    answer,
    finished,
    scored,
    token_ids,
)
from support.live_app import chat_body, sse_documents, wait_until

SETTINGS = load_settings({"model": "demo", "adapter": {"mirror_reasoning_content": True}}, environ={})
HI: Any = [{"role": "user", "content": "Hi"}]
CALL = (
    "<|channel|>analysis<|message|>END of thought.<|end|><|start|>assistant<|channel|>commentary to=functions.weather"
    ' <|constrain|>json<|message|>{"city":"ENDE"}<|call|>'
)


def final(text: str) -> str:
    return f"<|channel|>analysis<|message|>Hm, END.<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"


def metric(client: httpx.Client, series: str) -> float:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"{series}{{")]
    return sum(float(line.split()[-1]) for line in lines)


# --- several choices ------------------------------------------------------------------------------------------------


def test_choices_when_whole_then_each_has_its_index_and_the_prompt_counts_once(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.scripts = [answer(final("one")), answer(final("two"), reason=FinishReason.LENGTH), answer(CALL)]
    completion = openai.chat.completions.create(model="gpt-oss-demo", messages=HI, tools=[WEATHER], n=3, seed=5)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert [choice.message.content for choice in completion.choices] == ["one", "two", None]
    assert [choice.finish_reason for choice in completion.choices] == ["stop", "length", "tool_calls"]
    usage = completion.usage
    assert usage is not None
    assert usage.prompt_tokens == PROMPT_TOKENS
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == CACHED_TOKENS
    assert usage.completion_tokens == len(token_ids(final("one"))) + len(token_ids(final("two"))) + len(token_ids(CALL))
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert [sampling.seed for sampling in server.samplings] == [5, 6, 7]
    assert len(server.chats) == 1  # rendered once


def test_choices_when_streamed_then_chunks_mix_and_each_choice_keeps_its_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    slow: list[Scene] = [step for scene in answer(final("first")) for step in (scene, Pause(0.005))]
    server.scripts = [slow, answer(final("second")), answer(CALL)]
    *chunks, usage, done = stream(client, n=3, tools=[WEATHER], stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
    assert [joined(chunks, "content", index) for index in range(3)] == ["first", "second", ""]
    for index, reason in enumerate(["stop", "stop", "tool_calls"]):
        own = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert [choice["finish_reason"] for choice in own] == [None] * (len(own) - 1) + [reason]
    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == PROMPT_TOKENS
    # the slow choice was not waited for
    order = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert order.index(1) < len(order) - 1 - order[::-1].index(0)


@pytest.mark.parametrize("include_usage", [False, True])
def test_usage_when_it_is_asked_for_continuously_then_every_chunk_tells_its_choices_so_far(
    client: httpx.Client, server: FakeModelServer, include_usage: bool
) -> None:
    harmony = final("one two three")
    server.scripts = [answer(harmony), answer(final("four"))]
    options = {"continuous_usage_stats": True, "include_usage": include_usage}
    *chunks, done = stream(client, n=2, stream_options=options)
    assert done == "[DONE]"
    if include_usage:
        *chunks, last = chunks
        assert last["choices"] == []
        assert last["usage"]["completion_tokens"] == len(token_ids(harmony)) + len(token_ids(final("four")))
    usages = [chunk["usage"] for chunk in chunks if chunk["choices"][0]["index"] == 0]
    assert len(usages) == len([chunk for chunk in chunks if chunk["choices"][0]["index"] == 0]) > 4
    assert all(usage["prompt_tokens"] == PROMPT_TOKENS for usage in usages)
    assert all(usage["prompt_tokens_details"]["cached_tokens"] == CACHED_TOKENS for usage in usages)
    counts = [usage["completion_tokens"] for usage in usages]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, len(token_ids(harmony)))
    assert len(set(counts)) > 4
    reasoning = [usage["completion_tokens_details"]["reasoning_tokens"] for usage in usages]
    assert 0 < reasoning[-1] < counts[-1]
    assert [usage["total_tokens"] - usage["prompt_tokens"] for usage in usages] == counts


@pytest.mark.parametrize("streamed", [False, True])
def test_choice_when_it_fails_then_the_others_are_cancelled(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    server.scripts = [[*HELLO[:5], FOREVER], [*HELLO[:3], Pause(0.05), ServiceUnavailableError("Gone.")]]
    response = client.post(CHAT, json=chat_body(n=2, stream=streamed))
    error = sse_documents(response)[-1] if streamed else response.json()
    assert error["error"]["code"] == "service_unavailable"
    wait_until(lambda: all(one.cancelled for one in server.streams))
    assert server.streams[0].abandoned
    assert len(server.streams) == 2
    in_flight = "gptoss_num_requests_running"
    wait_until(lambda: metric(client, in_flight) == 0 and metric(client, "gptoss_num_requests_waiting") == 0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status"), [(InvalidRequestError("Odd."), 400), (TooManyRequestsError("Full."), 429)]
)
def test_choices_when_one_is_refused_before_any_begins_then_plain_json(
    client: httpx.Client, server: FakeModelServer, streamed: bool, error: Exception, status: int
) -> None:
    server.scripts = [[Pause(0.05), *HELLO], [error], [Pause(0.05), *HELLO]]
    response = client.post(CHAT, json=chat_body(n=3, stream=streamed))
    assert response.status_code == status
    assert set(response.json()) == {"error"}


@pytest.mark.parametrize("place", [0, 1])
def test_choices_when_one_goes_on_then_what_it_read_again_counts_whichever_it_is(
    client: httpx.Client, server: FakeModelServer, place: int
) -> None:
    called = answer("<|channel|>commentary to=nobody<|message|>{}<|call|>")
    server.scripts = [called, HELLO] if place == 0 else [HELLO, called]
    usage = client.post(CHAT, json=chat_body(n=2)).json()["usage"]
    assert len(server.prompts) == 3
    assert usage["prompt_tokens"] == 2 * PROMPT_TOKENS
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2 * CACHED_TOKENS


def test_choices_when_the_client_goes_away_then_all_are_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*HELLO[:5], FOREVER]
    with client.stream("POST", CHAT, json=chat_body(n=3, stream=True)) as response:
        next(response.iter_bytes())
        wait_until(lambda: len(server.streams) == 3)
    wait_until(lambda: all(one.abandoned for one in server.streams))


# --- stop strings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens_a_step", [1, 3, 100])
@pytest.mark.parametrize("streamed", [False, True])
def test_stop_when_it_comes_in_the_content_then_the_answer_ends_before_it(
    client: httpx.Client, server: FakeModelServer, tokens_a_step: int, streamed: bool
) -> None:
    text = final("One, two. END and more")
    server.script = (
        [*answer(text, tokens_a_step=tokens_a_step)[:-1], FOREVER]
        if tokens_a_step < 100
        else answer(text, tokens_a_step=tokens_a_step)
    )
    if streamed:
        *chunks, last, usage, _ = stream(client, stop=["never", "END"], stream_options={"include_usage": True})
        content, reason = joined(chunks, "content"), last["choices"][0]["finish_reason"]
        reasoning = joined(chunks, "reasoning")
    else:
        usage = ask(client, stop=["never", "END"])
        message = usage["choices"][0]["message"]
        content, reason, reasoning = message["content"], usage["choices"][0]["finish_reason"], message["reasoning"]
    assert (content, reason) == ("One, two. ", "stop")
    assert reasoning == "Hm, END."
    assert usage["usage"]["completion_tokens"] == len(token_ids(text.partition(" and more")[0]))
    wait_until(lambda: server.streams[0].abandoned)


def test_stop_when_it_comes_in_reasoning_or_arguments_then_it_does_not_count(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    choice = ask(client, stop="END", tools=[WEATHER])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city":"ENDE"}'


def test_stop_when_it_only_begins_then_what_was_held_back_comes_at_the_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(final("The EN"))
    choice = ask(client, stop="END")["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("The EN", "stop")


def test_stop_when_streamed_then_no_piece_of_it_is_ever_sent(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(final("Say E, EN, then END."))
    chunks = stream(client, stop=["END"])[:-1]
    sent = ""
    for chunk in chunks:
        sent += chunk["choices"][0]["delta"].get("content", "")
        assert "Say E, EN, then ".startswith(sent)
    assert sent == "Say E, EN, then "


# --- log probabilities ----------------------------------------------------------------------------------------------


def test_logprobs_when_whole_then_they_tell_the_content_and_nothing_else(
    openai: OpenAI, server: FakeModelServer
) -> None:
    server.script = scored(answer(final("Hello 🧑‍🚀!"), tokens_a_step=4))
    choice = openai.chat.completions.create(model="gpt-oss-demo", messages=HI, logprobs=True, top_logprobs=1).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    told = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
    assert told.decode() == choice.message.content == "Hello 🧑‍🚀!"
    assert {entry.logprob for entry in choice.logprobs.content} == {-0.5}
    assert {len(entry.top_logprobs) for entry in choice.logprobs.content} == {1}
    assert choice.logprobs.refusal is None
    assert server.samplings[0].logprobs == 1


@pytest.mark.parametrize("stop", [None, ["lo"], ["never"]])
@pytest.mark.parametrize("tokens_a_step", [1, 5])
def test_logprobs_when_streamed_then_each_goes_with_its_text(
    client: httpx.Client, server: FakeModelServer, stop: list[str] | None, tokens_a_step: int
) -> None:
    server.script = scored(answer(final("a b🧑‍🚀 lo c"), tokens_a_step=tokens_a_step))
    chunks = stream(client, logprobs=True, stop=stop)[:-1]
    said, told = "", b""
    for chunk in chunks:
        choice = chunk["choices"][0]
        assert bool(choice["logprobs"]) == bool(choice["delta"].get("content"))
        said += choice["delta"].get("content") or ""
        told += b"".join(bytes(entry["bytes"]) for entry in (choice["logprobs"] or {"content": []})["content"])
    # " lo" begins before the stop string does: its token is told though only its first character is
    assert said == ("a b🧑‍🚀 " if stop == ["lo"] else "a b🧑‍🚀 lo c")
    assert told.decode().startswith(said)


def test_logprobs_when_the_answer_is_a_call_then_there_are_none(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = scored(answer(CALL))
    assert ask(client, logprobs=True, tools=[WEATHER])["choices"][0]["logprobs"] == {"content": [], "refusal": None}


# --- tools and formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [None, "never"])
@pytest.mark.parametrize("tools", [{"tools": [WEATHER], "tool_choice": "none"}, {"tools": []}, {}])
def test_tools_when_they_are_not_to_be_called_then_a_call_is_no_content_and_the_model_writes_on(
    client: httpx.Client, server: FakeModelServer, stop: str | None, tools: dict[str, Any]
) -> None:
    server.scripts = [answer(CALL)]
    choice = ask(client, stop=stop, **tools)["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert "tool_calls" not in choice["message"]
    assert choice["message"]["content"] == "Hello!"
    assert len(server.prompts) == 2
    assert (server.chats[0].tool_choice.mode is ToolChoiceMode.NONE) is ("tool_choice" in tools)


def test_tools_when_given_then_the_generation_is_held_to_them_and_the_prompt_is_not_changed_by_sampling(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ask(client, tools=[WEATHER], tool_choice="required", temperature=0.5)
    structure = server.samplings[0].structure
    assert structure is not None
    assert [tool.name for tool in structure.tools] == ["weather"]
    assert structure.tool_choice.mode is ToolChoiceMode.REQUIRED
    assert server.chats[0].sampling == SamplingParams()


def test_format_when_parsed_by_the_official_client_then_it_is_a_model(openai: OpenAI, server: FakeModelServer) -> None:
    class City(BaseModel):
        name: str
        people: int

    server.script = answer(final('{"name":"Oslo","people":700000}'))
    parsed = openai.chat.completions.parse(model="gpt-oss-demo", messages=HI, response_format=City)
    assert parsed.choices[0].message.parsed == City(name="Oslo", people=700_000)
    structure = server.samplings[0].structure
    assert structure is not None
    assert structure.final is not None
    assert (structure.final.name, structure.final.strict) == ("City", True)
    assert structure.final.schema is not None
    assert set(structure.final.schema["properties"]) == {"name", "people"}


# --- how much is told -----------------------------------------------------------------------------------------------


def test_reasoning_when_mirrored_then_both_names_tell_it(client: httpx.Client) -> None:
    message = ask(client)["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == "Easy."
    chunks = stream(client)[:-1]
    assert joined(chunks, "reasoning") == joined(chunks, "reasoning_content") == "Easy."


@pytest.mark.parametrize("unwanted", [{"include_reasoning": False}, {"reasoning": {"exclude": True}}])
def test_reasoning_when_not_wanted_then_it_is_counted_but_not_told(
    client: httpx.Client, unwanted: dict[str, Any]
) -> None:
    whole = ask(client, **unwanted)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "Hello!", "refusal": None}
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    chunks = stream(client, **unwanted)[:-1]
    assert joined(chunks, "reasoning") == ""
    assert joined(chunks, "content") == "Hello!"


@pytest.mark.parametrize(("asked", "told"), [(None, None), ("auto", "default"), ("flex", "default")])
def test_service_tier_when_named_then_the_one_there_is_comes_back(
    client: httpx.Client, asked: str | None, told: str | None
) -> None:
    assert ask(client, service_tier=asked).get("service_tier") == told
    assert stream(client, service_tier=asked)[0].get("service_tier") == told


@pytest.mark.parametrize("profile", ["balanced", None])
def test_profile_when_it_is_the_one_served_then_it_is_taken(client: httpx.Client, profile: str | None) -> None:
    assert ask(client, profile=profile)["choices"]


def test_log_when_several_choices_end_then_their_tokens_are_summed(
    client: httpx.Client, server: FakeModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.scripts = [answer(final("one")), [STARTED, GenerationStep([5], finished(FinishReason.LENGTH, 1))]]
    with caplog.at_level("INFO", logger="gptoss_adapter"):
        ask(client, n=2)
        wait_until(lambda: bool(caplog.messages))
    told = vars(caplog.records[0])["fields"]
    assert told["completion_tokens"] == len(token_ids(final("one"))) + 1
