"""Clients that speak to Triton directly: the ensembles and the steps."""

from __future__ import annotations

import queue
from functools import partial

import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    EVENT,
    EVENT_CODEC,
    TEXT,
    TOKEN_IDS,
    ChatMessage,
    ChatRequest,
    Finished,
    GenerationErrorCode,
    Role,
    SamplingParams,
    Started,
    decode_error,
)
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ReasoningDelta
from gptoss_backend.model_names import MODELS_BY_SHORT
from support.live_server import LiveServer, wait_until

DEMO = MODELS_BY_SHORT["demo"]


def ask_ensemble(server: LiveServer, raw: bytes) -> tuple[list[int], str, list[Started | Finished]]:
    """Send CHAT to the ensemble; returns tokens, raw text and events of the whole answer."""
    answers: queue.SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = queue.SimpleQueue()
    chat = triton.InferInput(CHAT.name, [len(raw)], CHAT.datatype)
    chat.set_data_from_numpy(np.frombuffer(raw, dtype=np.uint8))
    ids: list[int] = []
    text, events = b"", []
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(partial(lambda out, result, error: out.put((result, error)), answers))
        client.async_stream_infer(DEMO.ensemble, [chat], enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise error
            assert result is not None
            if result.as_numpy(TOKEN_IDS.name) is not None:
                ids += result.as_numpy(TOKEN_IDS.name).tolist()
                text += result.as_numpy(TEXT.name).tobytes()
                event = result.as_numpy(EVENT.name).tobytes()
                events += [EVENT_CODEC.decode(event)] if event else []
            if result.get_response().parameters["triton_final_response"].bool_param:
                return ids, text.decode(), events


def split(ids: list[int]) -> str:
    splitter = ChannelSplitter()
    deltas = splitter.push(ids) + splitter.finish()
    return "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta | ContentDelta))


def test_ensemble_when_asked_then_it_gives_the_tokens_of_the_adapters_road(
    server: LiveServer, client: openai.OpenAI
) -> None:
    through_adapter = client.chat.completions.create(
        model=DEMO.openai,
        messages=[{"role": "user", "content": "two roads"}],
        temperature=0.0,
        max_tokens=64,
        extra_body={"ignore_eos": True},
    )
    # the adapter dates its prompts; the same date makes the same prompt
    from datetime import UTC, datetime

    chat = ChatRequest(
        messages=(ChatMessage(Role.USER, "two roads"),),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        sampling=SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True),
    )
    ids, text, events = ask_ensemble(server, CHAT_CODEC.encode(chat))
    assert len(ids) == 64
    assert text
    message = through_adapter.choices[0].message
    assert split(ids) == (getattr(message, "reasoning", None) or "") + (message.content or "")
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert len(events) == 2
    assert through_adapter.usage is not None
    assert events[0].prompt_tokens == through_adapter.usage.prompt_tokens


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"{", "Invalid JSON"),
        (b'{"messages": []}', "CHAT.messages"),
        (b'{"messages": [{"role": "user", "content": "x"}], "sampling": {"top_p": 7}}', "CHAT.sampling.top_p"),
        (b'{"messages": [{"role": "tool", "content": "x"}]}', "tool"),
    ],
)
def test_ensemble_when_chat_is_wrong_then_the_error_says_what(server: LiveServer, raw: bytes, sentence: str) -> None:
    for _ in range(2):  # the second time preprocess is answered from Triton's cache
        with pytest.raises(InferenceServerException, match=sentence):
            ask_ensemble(server, raw)


def test_deadline_when_it_passes_amid_the_answer_then_the_request_ends_with_its_code(server: LiveServer) -> None:
    expired = "gptoss_engine_requests_expired_total"
    before = server.triton_metric(expired)
    chat = ChatRequest(
        messages=(ChatMessage(Role.USER, "a long answer"),), sampling=SamplingParams(ignore_eos=True, timeout_s=0.3)
    )
    with pytest.raises(InferenceServerException) as caught:
        ask_ensemble(server, CHAT_CODEC.encode(chat))
    code, sentence = decode_error(caught.value.message())
    assert code is GenerationErrorCode.DEADLINE_EXCEEDED
    assert sentence.startswith("the request's time of 0.3 s ran out")
    wait_until(lambda: server.triton_metric(expired) == before + 1)
