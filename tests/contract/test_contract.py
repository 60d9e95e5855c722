"""The documents on the wire: what is sent is what is read, and a fault is told in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import (
    CHAT_CODEC,
    EVENT_CODEC,
    GENERATE_INPUTS,
    PREPROCESS_OUTPUTS,
    REFUSAL_CODEC,
    SAMPLING_CODEC,
    Alternative,
    CallSyntax,
    ChatMessage,
    ChatRequest,
    Continued,
    ContractError,
    CustomTool,
    Finished,
    FinishReason,
    FunctionTool,
    GenerationErrorCode,
    GenerationEvent,
    ReasoningEffort,
    Refusal,
    Role,
    SamplingParams,
    Started,
    TextForm,
    TextFormKind,
    Timings,
    TokenLogprob,
    ToolCall,
    decode_error,
    decode_sampling,
    encode_error,
)
from gptoss_backend.model_names import MODELS

text = st.text(max_size=20)
seconds = st.floats(min_value=0, max_value=1e6)
count = st.integers(min_value=0, max_value=2**31)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(min_value=-(2**53), max_value=2**53) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
token_id = st.integers(min_value=0, max_value=2**31 - 1)
samplings = st.builds(
    SamplingParams,
    max_tokens=st.none() | st.integers(min_value=1, max_value=2**31),
    temperature=st.floats(min_value=0, max_value=2),
    top_p=st.floats(min_value=0, max_value=1, exclude_min=True),
    top_k=st.integers(min_value=0, max_value=2**31 - 1),
    min_p=st.floats(min_value=0, max_value=1),
    seed=st.none() | st.integers(min_value=-(2**63), max_value=2**63 - 1),
    ignore_eos=st.booleans(),
    presence_penalty=st.floats(min_value=-2, max_value=2),
    frequency_penalty=st.floats(min_value=-2, max_value=2),
    repetition_penalty=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    logit_bias=st.dictionaries(token_id, st.floats(min_value=-100, max_value=100), max_size=4),
    min_tokens=count,
    stop_token_ids=st.lists(token_id, max_size=3).map(tuple),
    logprobs=st.none() | st.integers(min_value=0, max_value=20),
)
tool_calls = st.builds(ToolCall, id=text, name=text, arguments=text, syntax=st.sampled_from(CallSyntax))
messages = st.builds(
    ChatMessage,
    role=st.sampled_from(Role),
    content=st.none() | text,
    reasoning=st.none() | text,
    tool_calls=st.lists(tool_calls, max_size=2).map(tuple),
    tool_call_id=st.none() | text,
)
names = st.text(min_size=1, max_size=20)
form_kinds = st.sampled_from(TextFormKind)
forms = st.builds(TextForm, kind=form_kinds, texts=st.lists(names, min_size=1, max_size=2).map(tuple))
tools = st.builds(
    FunctionTool,
    name=names,
    description=text,
    parameters=st.none() | st.dictionaries(text, json_values, max_size=3),
) | st.builds(CustomTool, name=names, description=text, form=st.none() | forms)
chats = st.builds(
    ChatRequest,
    messages=st.lists(messages, min_size=1, max_size=3).map(tuple),
    date=st.none() | st.dates().map(lambda day: day.isoformat()),
    tools=st.lists(tools, max_size=2).map(tuple),
    reasoning_effort=st.sampled_from(ReasoningEffort),
    sampling=samplings,
)
logprob = st.floats(max_value=0, allow_infinity=False)
logprobs = st.lists(
    st.builds(
        TokenLogprob,
        token_id=token_id,
        logprob=logprob,
        top=st.lists(st.builds(Alternative, token_id, logprob), max_size=3).map(tuple),
    ),
    max_size=3,
).map(tuple)
events = (
    st.builds(Started, prompt_tokens=count, cached_tokens=count, logprobs=logprobs)
    | st.builds(Continued, logprobs=logprobs)
    | st.builds(
        Finished,
        finish_reason=st.sampled_from(FinishReason),
        prompt_tokens=count,
        completion_tokens=count,
        cached_tokens=count,
        timings=st.builds(Timings, queue_s=seconds, first_token_s=seconds, total_s=seconds),
        logprobs=logprobs,
    )
)


@given(chats)
def test_chat_when_sent_then_the_same_is_read_and_sent_again(chat: ChatRequest) -> None:
    raw = CHAT_CODEC.encode(chat)
    assert CHAT_CODEC.decode(raw) == chat
    assert CHAT_CODEC.encode(CHAT_CODEC.decode(raw)) == raw


@given(samplings)
def test_sampling_when_sent_then_the_same_is_read(sampling: SamplingParams) -> None:
    assert SAMPLING_CODEC.decode(SAMPLING_CODEC.encode(sampling)) == sampling
    assert decode_sampling(SAMPLING_CODEC.encode(sampling)) == sampling


@given(text, st.booleans())
def test_refusal_when_sent_in_place_of_sampling_then_it_is_told_from_sampling(sentence: str, internal: bool) -> None:
    refusal = Refusal(sentence, is_internal=internal)
    assert decode_sampling(REFUSAL_CODEC.encode(refusal)) == refusal


@given(events)
def test_event_when_sent_then_the_same_kind_is_read(event: GenerationEvent) -> None:
    assert EVENT_CODEC.decode(EVENT_CODEC.encode(event)) == event


def test_event_when_twenty_alternatives_are_told_then_they_are_pairs_on_the_wire() -> None:
    raw = EVENT_CODEC.encode(Continued((TokenLogprob(5, -0.5, (Alternative(5, -0.5), Alternative(7, -1.25))),)))
    told = b'{"logprobs":[{"token_id":5,"logprob":-0.5,"top":[[5,-0.5],[7,-1.25]]}],"event":"continued"'
    assert raw == told + b',"prompt_logprobs":[]}'


def test_documents_when_written_before_there_were_logprobs_then_they_are_still_read() -> None:
    assert EVENT_CODEC.decode(b'{"prompt_tokens":3,"cached_tokens":1,"event":"started"}') == Started(3, 1)
    old = b'{"max_tokens":5,"temperature":0.0,"top_p":1.0,"top_k":0,"min_p":0.0,"seed":null,"ignore_eos":true}'
    assert SAMPLING_CODEC.decode(old) == SamplingParams(max_tokens=5, temperature=0.0, ignore_eos=True)


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_document_when_any_bytes_hold_it_then_it_is_read(view: Callable[[bytes], bytes | memoryview]) -> None:
    assert SAMPLING_CODEC.decode(view(b"{}")) == SamplingParams()


def chat_with(**parts: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}], **parts}).encode()


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"", "CHAT: "),
        (b"Hi", "CHAT: "),
        (b"\xff", "CHAT: "),
        (b"[]", "CHAT: "),
        (b"{}", "CHAT.messages: "),
        (b"[" * 100_000, "CHAT: "),
        (chat_with(messages=[]), "CHAT.messages: "),
        (chat_with(messages=[{"role": "robot"}]), "CHAT.messages.0.role: "),
        (chat_with(messages=[{"content": "Hi"}]), "CHAT.messages.0.role: "),
        (chat_with(messages=[{"role": "user", "content": ["Hi"]}]), "CHAT.messages.0.content: "),
        (chat_with(messages=[{"role": "user", "kontent": "Hi"}]), "CHAT.messages.0.kontent: "),
        (chat_with(date="today"), "CHAT.date: "),
        (chat_with(tools=[{"name": ""}]), "CHAT.tools.0.name: "),
        (chat_with(tools=[{"type": "custom"}]), "CHAT.tools.0.name: "),
        (chat_with(tools=[{"name": "f", "type": "custom", "parameters": {}}]), "CHAT.tools.0.parameters: "),
        (chat_with(tools=[{"name": "f", "type": ["custom"]}]), "CHAT.tools.0: "),
        (chat_with(tools=["f"]), "CHAT.tools.0: "),
        (chat_with(reasoning_effort="extreme"), "CHAT.reasoning_effort: "),
        (chat_with(sampling={"temperature": 3}), "CHAT.sampling.temperature: "),
        (chat_with(sampling={"max_tokens": 0}), "CHAT.sampling.max_tokens: "),
        (chat_with(sampling={"top_p": 0}), "CHAT.sampling.top_p: "),
        (chat_with(sampling={"top_k": 10**400}), "CHAT.sampling.top_k: "),
        (chat_with(sampling={"seed": 2**63}), "CHAT.sampling.seed: "),
        (chat_with(sampling={"presence_penalty": 2.5}), "CHAT.sampling.presence_penalty: "),
        (chat_with(sampling={"frequency_penalty": -3}), "CHAT.sampling.frequency_penalty: "),
        (chat_with(sampling={"repetition_penalty": 0}), "CHAT.sampling.repetition_penalty: "),
        (chat_with(sampling={"logit_bias": {"5": 101}}), "CHAT.sampling.logit_bias.5: "),
        (chat_with(sampling={"logit_bias": {"-5": 1}}), "CHAT.sampling.logit_bias.-5"),
        (chat_with(sampling={"logit_bias": {str(i): 1 for i in range(1025)}}), "CHAT.sampling.logit_bias: "),
        (chat_with(sampling={"min_tokens": -1}), "CHAT.sampling.min_tokens: "),
        (chat_with(sampling={"stop_token_ids": ["end"]}), "CHAT.sampling.stop_token_ids.0: "),
        (chat_with(sampling={"logprobs": 21}), "CHAT.sampling.logprobs: "),
        (chat_with(extra=1), "CHAT.extra: "),
        (rb'{"messages":[{"role":"user","content":"\ud800"}]}', "CHAT: "),
    ],
)
def test_chat_when_faulty_then_one_line_names_the_place(raw: bytes, place: str) -> None:
    with pytest.raises(ContractError) as caught:
        CHAT_CODEC.decode(raw)
    sentence = str(caught.value)
    assert sentence.startswith(place)
    assert "\n" not in sentence
    assert len(sentence) < 200


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_documents_when_any_bytes_come_then_only_contract_errors_are_raised(raw: bytes) -> None:
    for decode in (CHAT_CODEC.decode, SAMPLING_CODEC.decode, EVENT_CODEC.decode, decode_sampling):
        with suppress(ContractError):
            decode(raw)


def test_event_when_its_kind_is_unknown_then_it_is_refused() -> None:
    with pytest.raises(ContractError, match=r"^EVENT"):
        EVENT_CODEC.decode(b'{"event": "paused"}')


@given(st.sampled_from(GenerationErrorCode), text, st.sampled_from(["", "in ensemble 'gpt_oss_20b_chat', "]))
def test_error_when_an_ensemble_passed_it_on_then_code_and_sentence_are_read(
    code: GenerationErrorCode, sentence: str, prefix: str
) -> None:
    assert decode_error(prefix + encode_error(code, sentence)) == (code, sentence)


def test_error_when_it_is_not_ours_then_the_sentence_is_read_without_a_code() -> None:
    assert decode_error("in ensemble 'x', failed to open") == (None, "failed to open")


def test_models_when_listed_then_names_are_unique_and_ensembles_follow_from_them() -> None:
    for names in zip(*((m.short, m.openai, m.triton, m.ensemble) for m in MODELS), strict=True):
        assert len(set(names)) == len(MODELS)
    assert [model.ensemble for model in MODELS] == [f"{model.triton}_chat" for model in MODELS]


def test_preprocess_when_compared_with_generation_then_it_gives_what_generation_takes() -> None:
    assert PREPROCESS_OUTPUTS == GENERATE_INPUTS
