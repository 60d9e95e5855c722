"""Token ids, special tokens and reasons to stop in answers, read back by the openai_harmony library."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai_harmony import Message, Role

from gptoss_adapter.content import ContentGate
from gptoss_backend.contract import FinishReason
from gptoss_backend.harmony.vocabulary import CALL, END, RETURN, encoding
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import CHAT_PROMPT, FOREVER, FakeModelServer, answer, scored, token_ids
from support.live_app import chat_body, sse_documents

SETTINGS = load_settings({"model": "demo", "server": {"triton_metrics_port": 9}}, environ={})
REASONED = "<|channel|>analysis<|message|>Think 🧑‍🚀.<|end|>"
CALLED = (
    REASONED + "<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>",
    CALL,
)
SAID = (REASONED + "<|start|>assistant<|channel|>final<|message|>Hello, world.<|return|>", None)
TOOLS = [{"type": "function", "function": {"name": "look"}}]


def complete(client: httpx.Client, **fields: object) -> Any:  # noqa: ANN401
    response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": [7, 8], **fields})
    assert response.status_code == 200, response.text
    return sse_documents(response) if fields.get("stream") else response.json()["choices"][0]


def ask(client: httpx.Client, **fields: object) -> Any:  # noqa: ANN401
    response = client.post("/v1/chat/completions", json=chat_body(**fields))
    assert response.status_code == 200, response.text
    return sse_documents(response) if fields.get("stream") else response.json()


def choices(documents: list[Any]) -> list[Any]:
    return [choice for document in documents[:-1] for choice in document["choices"]]


def parsed(ids: list[int]) -> list[Message]:
    return encoding().parse_messages_from_completion_tokens(ids, Role.ASSISTANT)


# --- token ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "stop_reason"), [CALLED, SAID])
@pytest.mark.parametrize("streamed", [False, True])
def test_chat_when_its_token_ids_are_asked_for_then_harmony_reads_the_turn(
    client: httpx.Client, server: FakeModelServer, said: str, stop_reason: int | None, streamed: bool
) -> None:
    server.script = answer(said, tokens_a_step=3)
    document = ask(client, return_token_ids=True, tools=TOOLS, stream=streamed)
    told = choices(document) if streamed else document["choices"]
    ids = [token for choice in told for token in choice["token_ids"]]
    assert ids == token_ids(said)
    assert (document[0] if streamed else document)["prompt_token_ids"] == list(CHAT_PROMPT)
    assert told[-1]["stop_reason"] == stop_reason
    reasoned, said_last = parsed(ids)
    assert (reasoned.channel, reasoned.content[0].text) == ("analysis", "Think 🧑‍🚀.")  # type: ignore[union-attr]
    assert said_last.recipient == ("functions.look" if stop_reason == CALL else None)


@pytest.mark.parametrize("streamed", [False, True])
def test_completion_when_its_token_ids_are_asked_for_then_each_choice_has_its_own(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    server.scripts = [answer(text + "<|return|>", tokens_a_step=2) for text in ("One, two.", "Three.")]
    body = {"model": "gpt-oss-demo", "prompt": [[7], [8, 9]], "return_token_ids": True, "stream": streamed}
    response = client.post("/v1/completions", json=body)
    told = choices(sse_documents(response)) if streamed else response.json()["choices"]
    for index, (prompt, said) in enumerate([([7], "One, two."), ([8, 9], "Three.")]):
        parts = [choice for choice in told if choice["index"] == index]
        assert [choice.get("prompt_token_ids") for choice in parts] == [prompt, *[None] * (len(parts) - 1)]
        assert [token for choice in parts for token in choice["token_ids"]] == token_ids(said + "<|return|>")


def test_chat_when_streamed_without_reasoning_then_its_ids_are_told_all_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SAID[0])
    documents = ask(client, return_token_ids=True, include_reasoning=False, stream=True)
    assert [token for choice in choices(documents) for token in choice["token_ids"]] == token_ids(SAID[0])
    assert ["prompt_token_ids" in document for document in documents[:-1]].count(True) == 1


def test_answer_when_a_stop_string_ended_it_then_its_ids_are_those_that_count(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [*answer("One, two, three", tokens_a_step=2)[:-1], FOREVER]
    response = client.post(
        "/v1/completions", json={"model": "gpt-oss-demo", "prompt": "Hi", "stop": " two", "return_token_ids": True}
    ).json()
    assert response["choices"][0]["token_ids"] == token_ids("One, two")
    assert response["usage"]["completion_tokens"] == len(token_ids("One, two"))


def test_answer_when_nobody_asks_for_ids_then_none_are_told(client: httpx.Client) -> None:
    document = ask(client)
    assert "prompt_token_ids" not in document
    assert "token_ids" not in document["choices"][0]
    assert "token_ids" not in complete(client)


def test_openai_client_when_ids_come_then_it_has_them(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer(SAID[0])
    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        asked = {"model": "gpt-oss-demo", "prompt": "Hi", "extra_body": {"return_token_ids": True}}
        choice = openai.completions.create(**asked).choices[0]  # type: ignore[call-overload]
    assert choice.token_ids == token_ids(SAID[0])
    assert choice.stop_reason is None


# --- special tokens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("options", [{}, {"logprobs": 0}, {"stop": "never"}])
def test_text_when_special_tokens_are_kept_then_harmony_reads_it(
    client: httpx.Client, server: FakeModelServer, streamed: bool, options: dict[str, object]
) -> None:
    server.script = scored(answer(SAID[0])) if "logprobs" in options else answer(SAID[0])
    told = complete(client, skip_special_tokens=False, stream=streamed, **options)
    text = "".join(choice["text"] for choice in choices(told)) if streamed else told["text"]
    assert text == SAID[0].removesuffix("<|return|>")
    reasoned, said = parsed(encoding().encode(text, allowed_special="all"))
    assert (reasoned.channel, said.channel) == ("analysis", "final")


def test_text_when_special_tokens_are_kept_then_a_stop_string_may_be_one(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SAID[0])
    choice = complete(client, skip_special_tokens=False, stop=["<|end|>"])
    assert choice["text"] == REASONED.removesuffix("<|end|>")
    assert choice["stop_reason"] == "<|end|>"


def test_text_when_the_stop_token_is_to_be_shown_then_it_is_its_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SAID[0])
    choice = complete(client, skip_special_tokens=False, include_stop_str_in_output=True)
    assert choice["text"] == SAID[0]


# --- what ended it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("is_shown", "text"), [(False, "One,"), (True, "One, two"), (None, "One,")])
def test_stop_string_when_it_is_to_be_shown_then_the_text_ends_with_it(
    client: httpx.Client, server: FakeModelServer, streamed: bool, is_shown: bool | None, text: str
) -> None:
    server.script = answer("One, two, three<|return|>")
    told = complete(client, stop=[" two", "x"], include_stop_str_in_output=is_shown, stream=streamed)
    assert ("".join(choice["text"] for choice in choices(told)) if streamed else told["text"]) == text
    last = choices(told)[-1] if streamed else told
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", " two")


def test_chat_when_a_stop_string_is_to_be_shown_then_its_content_ends_with_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(SAID[0])
    choice = ask(client, stop=" wor", include_stop_str_in_output=True)["choices"][0]
    assert (choice["message"]["content"], choice["stop_reason"]) == ("Hello, wor", " wor")


@pytest.mark.parametrize("is_shown", [False, True])
def test_stop_token_when_it_ends_the_text_then_it_is_the_reason(
    client: httpx.Client, server: FakeModelServer, is_shown: bool
) -> None:
    server.script = answer("One, two, three")
    last = token_ids(" three")
    choice = complete(client, stop_token_ids=last, include_stop_str_in_output=is_shown)
    assert choice["text"] == ("One, two, three" if is_shown else "One, two,")
    assert choice["stop_reason"] == last[0]


@pytest.mark.parametrize(
    ("last", "options", "told"),
    [
        ("<|return|>", {"stop_token_ids": [RETURN]}, None),
        ("<|return|>", {"stop_token_ids": [RETURN], "ignore_eos": True}, RETURN),
        ("<|call|>", {}, CALL),
        ("<|end|>", {"stop_token_ids": [END]}, END),
        ("<|end|>", {}, None),
    ],
)
def test_special_token_when_it_ends_the_text_then_the_reason_is_vllms(
    client: httpx.Client, server: FakeModelServer, last: str, options: dict[str, object], told: int | None
) -> None:
    server.script = answer("Hi" + last)
    assert complete(client, **options)["stop_reason"] == told


def test_reason_when_the_answer_was_cut_then_there_is_none(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = answer("One, two", reason=FinishReason.LENGTH)
    choice = complete(client, stop_token_ids=token_ids(" two"))
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("One, two", "length", None)


def test_gate_when_the_stop_string_is_shown_then_nothing_behind_it_is() -> None:
    gate = ContentGate(["END"], shows_stop=True)
    assert "".join(delta.text for piece in ("oneE", "NDtwo") for delta in gate.push(piece)) == "oneEND"
    assert gate.stop_string == "END"
