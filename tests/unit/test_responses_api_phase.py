"""POST /v1/responses: what is said on the way to an answer, the answer, and how the model sees both again."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gptoss_backend.contract import ChatRequest
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding
from support.fake_model_server import FakeModelServer, answer, scored
from support.responses_api import CALL, WEATHER, keeping_adapter, of_kind, respond, stream

url_and_server = keeping_adapter()

COMMENTARY = "<|channel|>commentary<|message|>I look first."
THOUGHT = "<|channel|>analysis<|message|>Easy."
NEXT = "<|end|><|start|>assistant"
DONE = "<|channel|>final<|message|>Done."
PREAMBLE_AND_ANSWER = answer(f"{THOUGHT}{NEXT}{COMMENTARY}{NEXT}{DONE}<|return|>")


def texts_and_phases(told: dict[str, Any]) -> list[tuple[str, str]]:
    return [(item["content"][0]["text"], item["phase"]) for item in of_kind(told, "message")]


def prompt_of(chat: ChatRequest) -> str:
    text: str = encoding().decode(render_prompt(chat))
    return text


@pytest.mark.parametrize("fields", [{}, {"top_logprobs": 1}, {"stop": "never"}])
@pytest.mark.parametrize("streamed", [False, True])
def test_answer_when_a_preamble_comes_first_then_each_is_an_item_with_its_phase(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], streamed: bool
) -> None:
    server.script = scored(PREAMBLE_AND_ANSWER) if "top_logprobs" in fields else PREAMBLE_AND_ANSWER
    told = stream(client, **fields)[-1]["response"] if streamed else respond(client, **fields)
    assert texts_and_phases(told) == [("I look first.", "commentary"), ("Done.", "final_answer")]


def test_stream_when_an_item_of_text_begins_then_its_phase_is_told_already(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = PREAMBLE_AND_ANSWER
    items = [event["item"] for event in stream(client) if event["type"].startswith("response.output_item")]
    phases = [item["phase"] for item in items if item["type"] == "message"]
    assert phases == ["commentary", "commentary", "final_answer", "final_answer"]


def test_preamble_when_a_call_follows_then_it_is_commentary(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(COMMENTARY + NEXT + CALL)
    assert texts_and_phases(respond(client, tools=[WEATHER])) == [("I look first.", "commentary")]


def test_preamble_when_nothing_followed_it_then_the_model_sees_it_and_its_reasoning_again(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(f"{THOUGHT}{NEXT}{COMMENTARY}<|return|>")
    first = respond(client)
    respond(client, "Go on", previous_response_id=first["id"])
    again = "<|start|>assistant<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant" + COMMENTARY + "<|end|>"
    assert again in prompt_of(server.chats[1])


def test_answer_when_it_comes_back_then_the_model_sees_both_texts_as_it_wrote_them(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = PREAMBLE_AND_ANSWER
    first = respond(client, store=False)
    respond(client, [{"role": "user", "content": "Hi"}, *first["output"], {"role": "user", "content": "More"}])
    assert f"Hi<|end|><|start|>assistant{COMMENTARY}{NEXT}{DONE}<|end|>" in prompt_of(server.chats[1])


def test_phase_when_it_is_none_of_openais_then_the_refusal_names_it(client: httpx.Client) -> None:
    item = {"role": "assistant", "content": "Hm", "phase": "middle"}
    response = client.post("/v1/responses", json={"model": "gpt-oss-demo", "input": [item]})
    assert response.status_code == 400
    assert "phase" in response.json()["error"]["param"]
