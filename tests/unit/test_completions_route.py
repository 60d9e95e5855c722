"""POST /v1/completions, /tokenize and /detokenize over a real socket, a scripted model server in Triton's place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from openai import OpenAI

from gptoss_adapter import raw_prompts
from gptoss_adapter.app import create_app
from gptoss_adapter.errors import ContextLengthExceededError, InvalidRequestError, ServiceUnavailableError
from gptoss_adapter.inference import GenerationStep, PromptIds
from gptoss_adapter.routes import completions
from gptoss_adapter.serving import Services
from gptoss_backend.contract import FinishReason
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import (
    CHAT_PROMPT,
    FOREVER,
    PROMPT_TOKENS,
    STARTED,
    FakeModelServer,
    Pause,
    answer,
    finished,
    scored,
    token_ids,
)
from support.live_app import chat_body, live, sse_documents, wait_until

SETTINGS = load_settings(
    {"model": "demo", "server": {"triton_metrics_port": 9}, "adapter": {"keepalive_s": 0.1}}, environ={}
)
TEXT = "Hello 🧑‍🚀, world"
SAID = token_ids(TEXT + "<|return|>")


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with live(create_app(SETTINGS, model_server=server)) as url:
        yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer]) -> FakeModelServer:
    server = url_and_server[1]
    server.forget()
    server.script = answer(TEXT + "<|return|>")
    return server


@pytest.fixture
def client(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_and_server[0], timeout=10) as client:
        yield client


def complete(client: httpx.Client, **fields: object) -> Any:  # noqa: ANN401
    response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": "Hi", **fields})
    assert response.status_code == 200, response.text
    return sse_documents(response) if fields.get("stream") else response.json()


def joined(documents: list[Any]) -> str:
    return "".join(choice["text"] for document in documents[:-1] for choice in document["choices"])


# --- answers --------------------------------------------------------------------------------------------------------


def test_text_when_whole_then_it_is_openais_shape_without_special_tokens(client: httpx.Client) -> None:
    document = complete(client)
    assert document.pop("id").startswith("cmpl-")
    assert document.pop("system_fingerprint").startswith("fp_")
    assert isinstance(document.pop("created"), int)
    assert document == {
        "object": "text_completion",
        "model": "gpt-oss-demo",
        "choices": [{"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop", "stop_reason": None}],
        "usage": {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": len(SAID),
            "total_tokens": PROMPT_TOKENS + len(SAID),
            "prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


def test_text_when_streamed_then_pieces_finish_usage_and_done_come_in_order(client: httpx.Client) -> None:
    *chunks, last, usage, done = complete(client, stream=True, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TEXT
    assert {chunk["choices"][0]["finish_reason"] for chunk in chunks} == {None}
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop", "stop_reason": None}]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(SAID)
    assert {chunk["object"] for chunk in [*chunks, last, usage]} == {"text_completion"}
    assert len({chunk["id"] for chunk in [*chunks, last, usage]}) == 1
    assert [chunk["usage"] for chunk in [*chunks, last]] == [None] * (len(chunks) + 1)


def test_text_when_it_holds_harmonys_markers_then_only_their_words_are_left(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>final<|message|>Hi<|end|>", tokens_a_step=2)
    assert complete(client)["choices"][0]["text"] == "finalHi"
    assert joined(complete(client, stream=True)) == "finalHi"


def test_text_when_it_ends_inside_a_character_then_that_is_replaced(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ids = token_ids("🧑‍🚀")[:1]
    server.script = [STARTED, GenerationStep(ids, finished(FinishReason.LENGTH, 1))]
    choice = complete(client)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("\ufffd", "length")
    assert joined(complete(client, stream=True)) == "\ufffd"


def test_openai_client_when_it_streams_then_it_reads_every_chunk(openai: OpenAI) -> None:
    chunks = list(openai.completions.create(model="gpt-oss-demo", prompt="Hi", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_when_prefill_is_long_then_comments_keep_it_alive(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = [STARTED, Pause(0.25), *answer("Hi<|return|>")[1:]]
    text = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": "Hi", "stream": True}).text
    assert text.startswith(": keep-alive\n\n")
    assert '"text":"Hi"' in text


# --- prompts --------------------------------------------------------------------------------------------------------


def test_prompt_when_it_is_text_then_nothing_in_it_is_a_special_token(
    client: httpx.Client, server: FakeModelServer
) -> None:
    complete(client, prompt="say <|end|> now")
    assert server.prompts == [encoding().encode("say <|end|> now", disallowed_special=())]
    assert max(server.prompts[0]) < 199_998
    assert server.chats == []


def test_prompt_when_it_is_ids_then_they_are_passed_on(client: httpx.Client, server: FakeModelServer) -> None:
    complete(client, prompt=[200006, 5, 0])
    assert server.prompts == [[200006, 5, 0]]


@pytest.mark.parametrize("prompts", [["a", "b c"], [encoding().encode("a"), encoding().encode("b c")]])
@pytest.mark.parametrize("streamed", [False, True])
def test_prompts_when_several_and_copies_then_they_are_numbered_prompt_by_prompt(
    client: httpx.Client, server: FakeModelServer, prompts: object, streamed: bool
) -> None:
    server.scripts = [answer(f"{number}<|return|>") for number in range(4)]
    asked: dict[str, Any] = {"prompt": prompts, "n": 2, "seed": 1, "echo": True}
    if streamed:
        documents = complete(client, stream=True, stream_options={"include_usage": True}, **asked)
        texts = [""] * 4
        for choice in (choice for document in documents[:-1] for choice in document["choices"]):
            texts[choice["index"]] += choice["text"]
        usage = documents[-2]["usage"]
    else:
        document = complete(client, **asked)
        assert [choice["index"] for choice in document["choices"]] == [0, 1, 2, 3]
        texts, usage = [choice["text"] for choice in document["choices"]], document["usage"]
    assert sorted(texts) == ["a0", "a1", "b c2", "b c3"]
    assert [len(prompt) for prompt in server.prompts] == [1, 1, 2, 2]
    assert [sampling.seed for sampling in server.samplings] == [1, 2, 1, 2]
    assert usage["prompt_tokens"] == 2 * PROMPT_TOKENS
    assert usage["completion_tokens"] == 8


# --- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_when_it_comes_then_the_text_ends_before_it(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    server.script = [*server.script[:-1], FOREVER]
    document = complete(client, stop=", w", stream=streamed)
    assert (joined(document) if streamed else document["choices"][0]["text"]) == "Hello 🧑‍🚀"
    wait_until(lambda: server.streams[0].abandoned)


@pytest.mark.parametrize("streamed", [False, True])
def test_stop_token_when_it_comes_then_it_counts_and_is_no_text(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    server.script = answer("One, two, three")
    last = token_ids(" three")
    options = {"stream_options": {"include_usage": True}} if streamed else {}
    document = complete(client, stop_token_ids=last, stream=streamed, **options)
    assert (joined(document[:-1]) if streamed else document["choices"][0]["text"]) == "One, two,"
    usage = (document[-2] if streamed else document)["usage"]
    assert usage["completion_tokens"] == len(token_ids("One, two, three"))


def test_logprobs_when_whole_then_offsets_and_lists_agree(openai: OpenAI, server: FakeModelServer) -> None:
    server.script = scored(answer("Hello, world<|return|>"))
    choice = openai.completions.create(model="gpt-oss-demo", prompt="Hi", logprobs=1).choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Hello", ",", " world"]
    assert choice.logprobs.text_offset == [0, 5, 6]
    assert choice.logprobs.token_logprobs == [-0.5] * 3
    assert choice.logprobs.top_logprobs is not None
    assert [len(one) for one in choice.logprobs.top_logprobs] == [2, 2, 2]
    assert server.samplings[0].logprobs == 1


def test_logprobs_when_streamed_then_chunks_join_to_the_whole(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = scored(answer(TEXT + "<|return|>", tokens_a_step=3))
    whole = complete(client, logprobs=1)["choices"][0]["logprobs"]
    chunks = [chunk["choices"][0] for chunk in complete(client, logprobs=1, stream=True)[:-1]]
    for name, entries in whole.items():
        assert [entry for chunk in chunks if chunk["logprobs"] for entry in chunk["logprobs"][name]] == entries
    assert whole["tokens"][1].strip().startswith(("bytes:", "🧑"))


def test_sampling_when_said_then_it_reaches_the_engine(client: httpx.Client, server: FakeModelServer) -> None:
    complete(
        client,
        max_tokens=7,
        temperature=0,
        logit_bias={"5": 1},
        ignore_eos=True,
        priority=3,
        min_tokens=2,
        cache_salt="s",
    )
    (sampling,) = server.samplings
    assert (sampling.max_tokens, sampling.temperature, sampling.logit_bias) == (7, 0.0, {5: 1.0})
    assert (sampling.ignore_eos, sampling.priority, sampling.min_tokens, sampling.cache_salt) == (True, 3, 2, "s")
    assert sampling.structure is None


def test_usage_when_it_is_asked_for_continuously_then_every_chunk_tells_it_so_far(
    client: httpx.Client, server: FakeModelServer
) -> None:
    options = {"continuous_usage_stats": True, "include_usage": True}
    *chunks, last, done = complete(client, stream=True, echo=True, stream_options=options)
    assert done == "[DONE]"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, last["usage"]["completion_tokens"])
    assert len(set(counts)) > 4
    assert chunks[-1]["usage"] == last["usage"]


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("error", [ContextLengthExceededError("Too long."), InvalidRequestError("The prompt is odd.")])
def test_prompt_when_the_engine_refuses_it_then_the_prompt_is_named(
    client: httpx.Client, server: FakeModelServer, streamed: bool, error: Exception
) -> None:
    server.script = [error]
    response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": "Hi", "stream": streamed})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"


def test_stream_when_it_fails_later_then_an_error_event_ends_it(client: httpx.Client, server: FakeModelServer) -> None:
    server.script = [*server.script[:3], ServiceUnavailableError("Gone.")]
    documents = complete(client, stream=True)
    assert joined(documents).startswith("Hello")
    assert documents[-1]["error"]["code"] == "service_unavailable"


def test_prompt_when_one_of_several_fails_then_the_others_are_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [[STARTED, FOREVER], [Pause(0.05), ServiceUnavailableError("Gone.")]]
    response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": ["a", "b"]})
    assert response.status_code == 503
    wait_until(lambda: server.streams[0].abandoned)


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", TEXT, "<|start|>user<|message|>x<|end|>", "a" * 3000, "\u2028 ﷽\x00"])
def test_text_when_tokenised_and_back_then_it_is_the_same(client: httpx.Client, text: str) -> None:
    document = client.post("/tokenize", json={"prompt": text}).json()
    assert document == {"count": len(document["tokens"]), "max_model_len": None, "tokens": document["tokens"]}
    assert all(token < 199_998 for token in document["tokens"])
    assert client.post("/detokenize", json={"tokens": document["tokens"]}).json() == {"prompt": text}


def test_tokens_when_their_texts_are_asked_for_then_they_are_told(client: httpx.Client) -> None:
    body = {"model": "gpt-oss", "prompt": "Hello, world", "return_token_strs": True, "add_special_tokens": False}
    document = client.post("/tokenize", json=body).json()
    assert document["token_strs"] == ["Hello", ",", " world"]


def test_chat_when_tokenised_then_its_prompt_is_told(client: httpx.Client, server: FakeModelServer) -> None:
    body = chat_body(tools=[{"type": "function", "function": {"name": "f"}}], reasoning_effort="high")
    document = client.post("/tokenize", json=body).json()
    assert document["tokens"] == list(CHAT_PROMPT)
    assert server.chats[0].reasoning_effort == "high"
    assert server.streams == []


def test_tokens_when_special_or_cut_then_the_text_shows_it(client: httpx.Client) -> None:
    ids = [200006, *encoding().encode("🧑‍🚀")[:1], 200007]
    assert client.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "<|start|>\ufffd<|end|>"}
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_tokenizer_when_an_evaluation_asks_for_it_then_its_special_tokens_are_named(client: httpx.Client) -> None:
    assert client.get("/tokenizer_info").json() == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": None,
    }


def test_detokenize_when_there_are_more_tokens_than_any_context_holds_then_400(client: httpx.Client) -> None:
    refused = client.post("/detokenize", json={"tokens": [1] * (2**20 + 1)})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tokens")


# --- what several answers may cost ----------------------------------------------------------------------------------


def test_copies_when_there_are_several_then_their_prompt_is_made_once(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Sequence[int]] = []

    def prompt_ids(tokens: Sequence[int]) -> PromptIds:
        made.append(tokens)
        return raw_prompts.prompt_ids(tokens)

    monkeypatch.setattr(completions, "prompt_ids", prompt_ids)
    complete(client, n=3, prompt=["Hi", "Ho"])
    assert len(made) == 2


def test_echo_when_all_copies_would_repeat_too_much_then_400(client: httpx.Client) -> None:
    body = {"model": "gpt-oss-demo", "prompt": "word " * 20_000, "n": 128, "echo": True}
    response = client.post("/v1/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "echo")


def test_prompt_when_the_model_takes_no_such_length_then_400_before_it_is_sent(
    client: httpx.Client, server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def max_model_len(*_: object) -> int:
        return 2048

    monkeypatch.setattr(Services, "max_model_len", max_model_len)
    for prompt in ("word " * 20_000, [5] * 20_000):
        response = client.post("/v1/completions", json={"model": "gpt-oss-demo", "prompt": prompt})
        error = response.json()["error"]
        assert (response.status_code, error["param"], error["code"]) == (400, "prompt", "context_length_exceeded")
    assert server.samplings == []
