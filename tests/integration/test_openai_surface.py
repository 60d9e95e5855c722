"""What today's OpenAI API offers beyond a plain chat, through the official client and the real tritonserver."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from support.live_server import LiveServer, wait_until

MODEL = "gpt-oss-demo"
HELLO: Any = [{"role": "user", "content": "hello"}]
IGNORE_EOS = {"ignore_eos": True}
TEXT = "Once upon a time, <|end|> there was a füchsin 🦊."


def post(server: LiveServer, path: str, **body: object) -> Any:  # noqa: ANN401
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60.0)
    assert response.status_code == 200, response.text
    return response.json()


def complete(client: openai.OpenAI, prompt: Any, **fields: Any) -> Any:  # noqa: ANN401
    fields = {"temperature": 0.0, "max_tokens": 24, "extra_body": IGNORE_EOS} | fields
    return client.completions.create(model=MODEL, prompt=prompt, **fields)


def joined(stream: Any) -> dict[int, str]:  # noqa: ANN401
    """Join a streamed completion by choice."""
    texts: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts


# --- several choices ------------------------------------------------------------------------------------------------


def test_choices_when_seeded_then_each_is_the_answer_of_its_own_seed(client: openai.OpenAI) -> None:
    def ask(**fields: Any) -> Any:  # noqa: ANN401
        return client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=40, extra_body=IGNORE_EOS, **fields
        )

    together = ask(n=3, seed=7)
    alone = [ask(seed=seed) for seed in (7, 8, 9)]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.message.content for choice in together.choices] == [one.choices[0].message.content for one in alone]
    assert len({choice.message.content for choice in together.choices}) == 3
    assert together.usage.completion_tokens == 3 * 40
    assert together.usage.prompt_tokens == alone[0].usage.prompt_tokens


def test_choices_when_streamed_then_each_joins_to_the_whole_one(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"n": 4, "seed": 3, "temperature": 1.0, "echo": True}
    whole = complete(client, ["one fish", "two fish"], **asked)
    assert joined(complete(client, ["one fish", "two fish"], stream=True, **asked)) == {
        choice.index: choice.text for choice in whole.choices
    }
    assert [choice.text[:3] for choice in whole.choices] == ["one"] * 4 + ["two"] * 4
    assert len({choice.text for choice in whole.choices}) == 8


def test_choices_when_the_client_goes_away_then_the_engine_drops_all(server: LiveServer) -> None:
    body = {"model": MODEL, "messages": HELLO, "n": 5, "max_tokens": 50_000, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(40):
            next(lines)
        wait_until(lambda: server.triton_metric("gptoss_engine_num_requests_running") == 5)
    wait_until(lambda: server.triton_metric("gptoss_engine_num_requests_running") == 0)


# --- stop strings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_text_when_it_reaches_a_stop_string_then_it_ends_before_it_and_the_engine_stops(
    server: LiveServer, client: openai.OpenAI, stream: bool
) -> None:
    text = complete(client, "stop me", max_tokens=60).choices[0].text
    stop = text[len(text) // 2 :][:4]
    cancelled = server.triton_metric("gptoss_engine_requests_cancelled_total")
    asked = {"stop": ["never seen", stop], "max_tokens": 50_000}
    if stream:
        assert joined(complete(client, "stop me", stream=True, **asked)) == {0: text[: text.index(stop)]}
    else:
        answer = complete(client, "stop me", **asked)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text[: text.index(stop)], "stop")
        assert 0 < answer.usage.completion_tokens < 60
    wait_until(lambda: server.triton_metric("gptoss_engine_requests_cancelled_total") == cancelled + 1)


def test_chat_when_its_content_reaches_a_stop_string_then_it_ends_before_it(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": HELLO, "temperature": 0.0, "extra_body": IGNORE_EOS}
    content = client.chat.completions.create(max_tokens=90, **asked).choices[0].message.content or ""
    stop = content[len(content) // 2 :][:4]
    answer = client.chat.completions.create(max_tokens=5_000, stop=stop, **asked)
    assert answer.choices[0].message.content == content[: content.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


# --- log probabilities, bias, penalties -----------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs_when_greedy_then_they_tell_the_content_and_the_likeliest_comes_first(
    client: openai.OpenAI, stream: bool
) -> None:
    asked: dict[str, Any] = {"max_tokens": 80, "temperature": 0.0, "logprobs": True, "top_logprobs": 3}
    answer: Any = client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=stream, extra_body=IGNORE_EOS, **asked
    )
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        content = "".join(choice.delta.content or "" for choice in choices)
        entries = [entry for choice in choices if choice.logprobs for entry in choice.logprobs.content]
    else:
        content, entries = answer.choices[0].message.content, answer.choices[0].logprobs.content
    told = b"".join(bytes(entry.bytes) for entry in entries).decode(errors="replace")
    # an empty line keeps two messages apart; no token wrote it
    assert told.replace("\n", "") == content.replace("\n", "")
    assert entries
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0.0


def test_text_logprobs_when_asked_for_then_offsets_find_the_tokens(client: openai.OpenAI) -> None:
    choice = complete(client, "count", logprobs=2).choices[0]
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        # where bytes before it made no character, its text comes behind U+FFFD
        assert token.startswith("bytes:") or choice.text[offset:].lstrip("\ufffd").startswith(token)


def test_prompt_when_its_logprobs_are_asked_for_then_they_are_those_of_the_same_text_as_an_answer(
    client: openai.OpenAI,
) -> None:
    answered = complete(client, "count", logprobs=2, extra_body=IGNORE_EOS | {"return_token_ids": True}).choices[0]
    ids = answered.prompt_token_ids + answered.token_ids
    for max_tokens in (0, 1):  # lm-eval asks for one
        told = complete(client, ids, logprobs=2, echo=True, max_tokens=max_tokens).choices[0].logprobs
        assert told.token_logprobs[0] is None
        assert len(told.tokens) == len(ids) + max_tokens
        scores = told.token_logprobs[len(answered.prompt_token_ids) : len(ids)]
        num_scored = len(answered.logprobs.tokens)  # special tokens are no text
        assert len(scores) == num_scored
        assert scores == pytest.approx(answered.logprobs.token_logprobs, abs=1e-3)
        # greedy: each token was the likeliest
        assert scores == [max(top.values()) for top in told.top_logprobs[len(answered.prompt_token_ids) : len(ids)]]


def test_chat_when_its_prompts_logprobs_are_asked_for_then_each_token_has_its_own(client: openai.OpenAI) -> None:
    body = {"prompt_logprobs": 1, "return_token_ids": True}
    answered: Any = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2, extra_body=body)
    first, *others = answered.prompt_logprobs
    assert first is None
    for token, entries in zip(answered.prompt_token_ids[1:], others, strict=True):
        assert entries[str(token)]["logprob"] <= 0.0


def test_token_when_biased_then_it_alone_is_chosen_or_never(server: LiveServer, client: openai.OpenAI) -> None:
    [word] = post(server, "/tokenize", prompt=" fox")["tokens"]
    answer = complete(client, "the", logit_bias={str(word): 100}, max_tokens=5)
    assert answer.choices[0].text == " fox" * 5
    [first] = post(server, "/tokenize", prompt="the")["tokens"]
    barred = complete(client, [first], logit_bias={str(word): 100}, max_tokens=5, presence_penalty=2.0)
    assert barred.choices[0].text == " fox" * 5  # the bias is stronger


def test_token_when_it_is_a_stop_token_of_the_request_then_it_ends_the_text(
    server: LiveServer, client: openai.OpenAI
) -> None:
    [word] = post(server, "/tokenize", prompt=" fox")["tokens"]
    ended = IGNORE_EOS | {"stop_token_ids": [word]}
    bias = {str(word): 100}
    answer = complete(client, "the", logit_bias=bias, max_tokens=5, extra_body=ended)
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("stop", 1)
    later = complete(client, "the", logit_bias=bias, max_tokens=5, extra_body=ended | {"min_tokens": 3})
    assert later.usage.completion_tokens == 4


# --- prompts --------------------------------------------------------------------------------------------------------


def test_prompt_when_sent_as_ids_or_as_text_then_it_is_the_same(server: LiveServer, client: openai.OpenAI) -> None:
    ids = post(server, "/tokenize", prompt=TEXT)["tokens"]
    by_text, by_ids = complete(client, TEXT), complete(client, ids)
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert by_ids.usage.prompt_tokens == by_text.usage.prompt_tokens == len(ids)
    batch = complete(client, [ids, ids[:5]])
    assert batch.choices[0].text == by_text.choices[0].text
    assert batch.usage.prompt_tokens == len(ids) + 5


def test_text_when_tokenised_and_back_then_it_is_the_same(server: LiveServer) -> None:
    answer = post(server, "/tokenize", prompt=TEXT, return_token_strs=True)
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert max(answer["tokens"]) < 199_998  # <|end|> stayed text
    assert post(server, "/detokenize", tokens=answer["tokens"])["prompt"] == TEXT


def test_chat_when_tokenised_then_it_is_the_prompt_that_a_chat_costs(server: LiveServer, client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
    tokens = post(server, "/tokenize", messages=HELLO, tools=tools)["tokens"]
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=tools, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(tokens)
    text = post(server, "/detokenize", tokens=tokens)["prompt"]
    assert text.endswith("<|start|>assistant")
    assert "weather" in text
    hidden = post(server, "/tokenize", messages=HELLO, tools=tools, tool_choice="none")["tokens"]
    assert hidden == post(server, "/tokenize", messages=HELLO)["tokens"]


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (
            "/v1/chat/completions",
            {"messages": [*HELLO, {"role": "tool", "content": "x", "tool_call_id": "a"}]},
            "messages[1]",
        ),
        (
            "/v1/chat/completions",
            {"messages": HELLO, "tools": [{"type": "function", "function": {"name": "no way"}}]},
            "tools[0]",
        ),
        ("/v1/chat/completions", {"messages": HELLO, "logit_bias": {"201088": 1}}, "logit_bias"),
        ("/v1/chat/completions", {"messages": HELLO, "stop_token_ids": [999_999]}, "stop_token_ids"),
        ("/v1/completions", {"prompt": "word " * 140_000}, "prompt"),
        ("/v1/completions", {"prompt": [300_000]}, "prompt"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_request_when_triton_refuses_it_then_400_names_the_field(
    server: LiveServer, path: str, fields: dict[str, Any], param: str | None, stream: bool
) -> None:
    response = httpx.post(f"{server.url}{path}", json={"model": MODEL, "stream": stream, **fields}, timeout=60.0)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_refusals_when_there_are_many_at_once_then_the_server_lives(server: LiveServer) -> None:
    # an error that ends its stream with a gRPC status killed tritonserver, now and then
    body = {"model": MODEL, "prompt": "x", "logit_bias": {"201088": 1}}

    def be_refused(_: int) -> set[int]:
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            return {client.post("/v1/completions", json=body).status_code for _ in range(250)}

    with ThreadPoolExecutor(8) as pool:
        assert set().union(*pool.map(be_refused, range(8))) == {400}
