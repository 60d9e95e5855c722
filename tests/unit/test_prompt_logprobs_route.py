"""A prompt's log probabilities as completions and chats tell them, a scripted model server in Triton's place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai import OpenAI

from gptoss_adapter.inference import GenerationStep
from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.harmony.vocabulary import RETURN
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import CHAT_PROMPT, FakeModelServer, Scene, answer, scored, token_ids
from support.live_app import chat_body

SETTINGS = load_settings({"model": "demo", "server": {"triton_metrics_port": 9}}, environ={})
TEXT = "One 🧑‍🚀, two"
PROMPT = token_ids(TEXT)


def with_prompt(scenes: list[Scene], prompt: list[int]) -> list[Scene]:
    """Return a scored script that tells of the prompt, too, with its first token: each -0.25, its next id -2.0."""
    entries = tuple(TokenLogprob(token, -0.25, (Alternative(token + 1, -2.0),)) for token in prompt[1:])
    started, first, *rest = scored(scenes)
    assert isinstance(first, GenerationStep)
    assert first.event is not None
    return [started, replace(first, event=replace(first.event, prompt_logprobs=entries)), *rest]


def complete(client: httpx.Client, **fields: object) -> Any:  # noqa: ANN401
    response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": TEXT, **fields})
    assert response.status_code == 200, response.text
    return response.json()


def test_echo_when_its_logprobs_are_asked_for_then_prompt_and_text_are_told_as_one(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = with_prompt(answer(" three<|return|>"), PROMPT)
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        choice = openai.completions.create(
            model="gpt-oss-demo", prompt=TEXT, echo=True, logprobs=1, max_tokens=1
        ).choices[0]
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert told.text_offset is not None
    assert choice.text == TEXT + " three"
    assert told.token_logprobs == [None, *[-0.25] * (len(PROMPT) - 1), -0.5]
    assert told.top_logprobs is not None
    assert told.top_logprobs[0] is None
    assert [len(top) for top in told.top_logprobs[1:]] == [2] * len(PROMPT)
    assert told.tokens[0] == "One"
    assert told.text_offset[0] == 0
    assert told.text_offset[-1] == len(TEXT)
    whole = [
        (name, at) for name, at in zip(told.tokens, told.text_offset, strict=True) if not name.startswith("bytes:")
    ]
    assert all(choice.text[at : at + len(name)] == name for name, at in whole)
    assert (server.samplings[0].prompt_logprobs, server.samplings[0].max_tokens) == (1, 1)


def test_echo_when_no_tokens_are_asked_for_then_the_prompt_alone_is_told(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = with_prompt(answer(" three"), PROMPT)
    document = complete(client, echo=True, logprobs=0, max_tokens=0, return_token_ids=True)
    (choice,) = document["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (TEXT, "length", None)
    assert len(choice["logprobs"]["tokens"]) == len(PROMPT)
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (PROMPT, [])
    assert document["usage"]["completion_tokens"] == 0
    assert server.samplings[0].max_tokens == 1


def test_echo_when_no_tokens_and_no_logprobs_are_asked_for_then_it_is_the_prompt(client: httpx.Client) -> None:
    assert complete(client, echo=True, max_tokens=0)["choices"][0]["text"] == TEXT


def test_completion_when_prompt_logprobs_are_asked_for_then_they_are_vllms(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = with_prompt(answer(" three<|return|>"), PROMPT)
    choice = complete(client, prompt_logprobs=1)["choices"][0]
    first, second, *others = choice["prompt_logprobs"]
    assert first is None
    assert second == {
        str(PROMPT[1]): {"logprob": -0.25, "rank": None, "decoded_token": second[str(PROMPT[1])]["decoded_token"]},
        str(PROMPT[1] + 1): {"logprob": -2.0, "rank": 1, "decoded_token": second[str(PROMPT[1] + 1)]["decoded_token"]},
    }
    assert len(others) == len(PROMPT) - 2
    assert choice["logprobs"] is None


def test_completion_when_there_are_copies_then_each_prompt_is_scored_once_and_each_choice_tells_of_its_own(
    client: httpx.Client, server: FakeModelServer
) -> None:
    prompts = [[40, 41, 42], [50, 51]]
    said = " three<|return|>"
    server.scripts = [with_prompt(answer(said), prompts[0]), answer(said), with_prompt(answer(said), prompts[1])]
    choices = complete(client, prompt=prompts, n=2, prompt_logprobs=1)["choices"]
    assert [list(choice["prompt_logprobs"][1]) for choice in choices] == [["41", "42"]] * 2 + [["51", "52"]] * 2
    assert [sampling.prompt_logprobs for sampling in server.samplings] == [1, None, 1, None]


@pytest.mark.parametrize("fields", [{"prompt_logprobs": 20}, {"echo": True, "logprobs": 5}])
def test_completion_when_all_answers_would_tell_too_much_of_their_prompts_then_400_says_so(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any]
) -> None:
    """No prompt alone is too long for the engine."""
    num_told = 1 + max(value for value in fields.values() if value is not True)
    body = {"model": "gpt-oss-demo", "prompt": [[40] * (2**18 // 16 // num_told + 1)] * 4, "n": 4, **fields}
    response = client.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt"), response.text
    assert server.streams == []


def test_chat_when_prompt_logprobs_are_asked_for_then_the_prompt_is_scored_once(
    client: httpx.Client, server: FakeModelServer
) -> None:
    said = "<|channel|>final<|message|>Hi<|return|>"
    server.scripts = [with_prompt(answer(said), list(CHAT_PROMPT)), answer(said)]
    response = client.post("/v1/chat/completions", json=chat_body(prompt_logprobs=1, n=2)).json()
    assert [entry is None for entry in response["prompt_logprobs"]] == [True, *[False] * (len(CHAT_PROMPT) - 1)]
    assert [sampling.prompt_logprobs for sampling in server.samplings] == [1, None]
    assert [choice["message"]["content"] for choice in response["choices"]] == ["Hi", "Hi"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("completions", {"max_tokens": 0}, "max_tokens"),
        ("completions", {"max_tokens": -1, "echo": True}, "max_tokens"),
        ("completions", {"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ("completions", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ("completions", {"prompt_logprobs": 1, "echo": True, "logprobs": 2}, "prompt_logprobs"),
        ("completions", {"prompt_logprobs": 21}, "prompt_logprobs"),
        ("chat/completions", {"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ("chat/completions", {"max_tokens": 0}, "max_tokens"),
    ],
)
def test_prompt_logprobs_when_they_cannot_be_told_then_400_says_so(
    client: httpx.Client, server: FakeModelServer, path: str, fields: dict[str, Any], param: str
) -> None:
    body = chat_body(**fields) if path.startswith("chat") else {"model": "gpt-oss-demo", "prompt": "Hi", **fields}
    response = client.post(f"/v1/{path}", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert server.streams == []


def test_echo_when_the_prompt_is_one_token_then_nothing_is_told_of_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = scored(answer(" three<|return|>"))
    told = complete(client, prompt=[RETURN], echo=True, logprobs=1)["choices"][0]["logprobs"]
    assert told["token_logprobs"] == [None, -0.5]
    assert told["tokens"] == ["<|return|>", " three"]
