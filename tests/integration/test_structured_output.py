"""Random weights at temperature 1 say anything, unless a grammar holds them: through the real engine and the API."""

from __future__ import annotations

import json
import queue
import re
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import openai
import pytest
import tritonclient.grpc as triton
from pydantic import BaseModel, ConfigDict, Field
from tritonclient.utils import InferenceServerException

from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    PROMPT_IDS,
    SAMPLING,
    SAMPLING_CODEC,
    TOKEN_IDS,
    BuiltinName,
    BuiltinTool,
    ChatMessage,
    ChatRequest,
    OutputStructure,
    ResponseFormat,
    Role,
    SamplingParams,
    TensorSpec,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.builtin_tools import recipients
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ToolCallDelta
from gptoss_backend.harmony.vocabulary import CALL, END, RETURN, encoding
from gptoss_backend.model_names import MODELS_BY_SHORT
from support.live_server import LiveServer

MODEL = "gpt-oss-demo"
DEMO = MODELS_BY_SHORT["demo"]
NUM_ANSWERS = 6
# random weights never end a text by themselves: reasoning, JSON that may end and calls that may end do so at once
ENDS_JSON = {token: 20.0 for text in '"}' for token in encoding().encode(text)}
ENDS_SOON = {str(token): 30 for token in (END, RETURN, CALL)}


class Unit(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=10)
    size: int = Field(ge=0, le=999)


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    city: str = Field(max_length=20)
    is_urgent: bool
    units: list[Unit] = Field(max_length=2)


SCHEMA = {"type": "json_schema", "json_schema": {"name": "order", "strict": True, "schema": Order.model_json_schema()}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "place_order", "parameters": Order.model_json_schema()}},
    {"type": "function", "function": {"name": "now"}},
]


def answers(client: openai.OpenAI, **fields: Any) -> list[Any]:  # noqa: ANN401
    """Ask for several answers at a time, each of another seed."""

    def ask(seed: int) -> Any:  # noqa: ANN401
        return client.chat.completions.create(
            model=MODEL,
            seed=seed,
            temperature=1.0,
            max_completion_tokens=1500,
            **{"messages": [{"role": "user", "content": "An order, please."}], "logit_bias": ENDS_SOON} | fields,
        ).choices[0]

    with ThreadPoolExecutor(NUM_ANSWERS) as pool:
        return list(pool.map(ask, range(NUM_ANSWERS)))


def check_calls(choice: Any) -> None:  # noqa: ANN401
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls
    for call in choice.message.tool_calls:
        if call.function.name == "now":
            assert json.loads(call.function.arguments) == {}
        else:
            assert call.function.name == "place_order"
            Order.model_validate_json(call.function.arguments)


def test_content_when_a_schema_is_demanded_then_it_is_valid(client: openai.OpenAI) -> None:
    for choice in answers(client, response_format=SCHEMA):
        assert choice.finish_reason == "stop"
        Order.model_validate_json(choice.message.content)


def test_content_when_an_object_is_demanded_then_it_is_one(client: openai.OpenAI) -> None:
    # random weights would go on with a free string for ever
    short = {str(token): 25 for token in encoding().encode('"') + encoding().encode("}") + encoding().encode("1")}
    for choice in answers(client, response_format={"type": "json_object"}, logit_bias=ENDS_SOON | short):
        assert choice.finish_reason == "stop"
        assert isinstance(json.loads(choice.message.content), dict)


def test_call_when_required_then_it_is_one_of_a_known_function(client: openai.OpenAI) -> None:
    for choice in answers(client, tools=TOOLS, tool_choice="required"):
        check_calls(choice)


def test_call_when_a_function_is_named_then_it_is_that_one_once(client: openai.OpenAI) -> None:
    named = {"type": "function", "function": {"name": "place_order"}}
    for choice in answers(client, tools=TOOLS, tool_choice=named, parallel_tool_calls=False):
        check_calls(choice)
        assert [call.function.name for call in choice.message.tool_calls] == ["place_order"]


def test_answer_when_it_may_be_a_call_or_json_then_it_is_either(client: openai.OpenAI) -> None:
    for choice in answers(client, tools=TOOLS, response_format=SCHEMA, parallel_tool_calls=False):
        if choice.message.tool_calls:
            check_calls(choice)
        else:
            Order.model_validate_json(choice.message.content)


def test_content_when_its_beginning_was_sent_then_both_together_are_valid(client: openai.OpenAI) -> None:
    begun = '{"city": "Oslo", "is_urgent": tr'
    messages = [{"role": "user", "content": "An order, please."}, {"role": "assistant", "content": begun}]
    for choice in answers(
        client, response_format=SCHEMA, messages=messages, extra_body={"continue_final_message": True}
    ):
        assert Order.model_validate_json(begun + choice.message.content).city == "Oslo"
    messages[-1]["content"] = "Here it is: {"
    with pytest.raises(openai.BadRequestError, match="to be continued") as refused:
        answers(client, response_format=SCHEMA, messages=messages, extra_body={"continue_final_message": True})
    assert refused.value.param == "messages"


def test_budget_when_spent_inside_the_json_then_the_reason_is_length(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "An order, please."}],
        response_format=SCHEMA,  # type: ignore[arg-type]
        max_completion_tokens=6,
    ).choices[0]
    assert choice.finish_reason == "length"


@pytest.mark.parametrize("mode", ["stream", "parse"])
def test_clients_helpers_when_used_with_a_schema_then_they_give_the_model(client: openai.OpenAI, mode: str) -> None:
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "An order, please."}],
        "response_format": Order,
        "max_completion_tokens": 1500,
        "logit_bias": ENDS_SOON,
        "seed": 1,
    }
    if mode == "parse":
        assert isinstance(client.chat.completions.parse(**asked).choices[0].message.parsed, Order)
        return
    with client.chat.completions.stream(**asked) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Order)


# --- custom tools ---------------------------------------------------------------------------------------------------

PLATE = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[A-C]{2} [0-9]{3}"}}
SUM = {"type": "grammar", "grammar": {"syntax": "lark", "definition": 'start: A ("+" A)?\nA: /[1-9]/'}}
FORMS_OF_INPUT = {"plate": r"[A-C]{2} [0-9]{3}", "sum": r"[1-9](\+[1-9])?", "note": r"[^\uFFFF]*"}
CUSTOM_TOOLS: list[Any] = [
    {"type": "custom", "custom": {"name": "plate", "format": PLATE}},
    {"type": "custom", "custom": {"name": "note"}},
    {"type": "custom", "custom": {"name": "sum", "format": SUM}},
]
# a free text of random weights ends where it may
QUOTE_SOON = ENDS_SOON | {str(token): 20 for token in encoding().encode('"}') + encoding().encode('"')}


@pytest.mark.parametrize("name", ["plate", "sum", "note"])
def test_call_when_a_custom_tool_is_named_then_its_input_is_of_its_form(client: openai.OpenAI, name: str) -> None:
    named = {"type": "custom", "custom": {"name": name}}
    asked: dict[str, Any] = {"tools": [*TOOLS, *CUSTOM_TOOLS], "tool_choice": named, "parallel_tool_calls": False}
    for choice in answers(client, logit_bias=QUOTE_SOON, **asked):
        assert choice.finish_reason == "tool_calls"
        [call] = choice.message.tool_calls
        assert (call.type, call.custom.name) == ("custom", name)
        assert re.fullmatch(FORMS_OF_INPUT[name], call.custom.input)


def test_response_when_its_custom_call_is_answered_then_the_conversation_goes_on(client: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "custom", "name": "plate", "format": {"type": "grammar", **PLATE["grammar"]}}]  # type: ignore[dict-item]
    asked: dict[str, Any] = {
        "model": MODEL,
        "max_output_tokens": 300,
        "extra_body": {"logit_bias": ENDS_SOON, "seed": 1},
    }
    with client.responses.stream(
        input="A plate.", tools=tools, tool_choice="required", parallel_tool_calls=False, **asked
    ) as told:
        events = list(told)
        first = told.get_final_response()
    call = first.output[-1]
    assert call.type == "custom_tool_call"
    assert re.fullmatch(FORMS_OF_INPUT["plate"], call.input)
    given = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
    assert "".join(given) == call.input
    output: list[Any] = [{"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Free."}]
    second = client.responses.create(input=output, previous_response_id=first.id, tools=tools, **asked)
    assert second.status == "completed"
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens - 16  # a block


@pytest.mark.parametrize(
    ("syntax", "definition", "word"),
    [("lark", "start: nowhere", "nowhere"), ("regex", "((a{50}){50}){40}", "longer"), ("regex", "a(?=b)", "look")],
)
def test_custom_tool_when_its_grammar_cannot_be_held_then_the_error_names_it(
    client: openai.OpenAI, syntax: str, definition: str, word: str
) -> None:
    grammar = {"syntax": syntax, "definition": definition}
    of_chat: list[Any] = [
        TOOLS[1],
        {"type": "custom", "custom": {"name": "f", "format": {"type": "grammar", "grammar": grammar}}},
    ]
    of_responses: list[Any] = [
        {"type": "web_search"},
        {"type": "custom", "name": "f", "format": {"type": "grammar", **grammar}},
    ]
    for _ in range(2):  # the second answer comes from Triton's cache
        with pytest.raises(openai.BadRequestError, match=word) as in_chat:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], tools=of_chat)
        with pytest.raises(openai.BadRequestError, match=word) as in_responses:
            client.responses.create(model=MODEL, input="Hi", tools=of_responses)
        assert in_chat.value.param == "tools[1].custom.format.grammar.definition"
        assert in_responses.value.param == "tools[1].format.definition"


# --- vLLM's words ---------------------------------------------------------------------------------------------------

FORMS: list[tuple[dict[str, Any], str]] = [
    ({"structured_outputs": {"regex": "[a-c]{3}-[0-9]{2}"}}, r"[a-c]{3}-[0-9]{2}"),
    ({"structured_outputs": {"choice": ["yes", "no\n", "maybe"]}}, r"yes|no\n|maybe"),
    ({"guided_grammar": 'start: A ("+" A)? "!"\nA: /[1-9]/'}, r"[1-9](\+[1-9])?!"),
    ({"structured_outputs": {"json": {"type": "boolean"}}}, r"true|false"),
]


@pytest.mark.parametrize(("fields", "pattern"), FORMS)
def test_content_when_a_form_is_demanded_then_it_is_of_it(
    client: openai.OpenAI, fields: dict[str, Any], pattern: str
) -> None:
    for choice in answers(client, extra_body=fields):
        assert choice.finish_reason == "stop"
        assert re.fullmatch(pattern, choice.message.content)


@pytest.mark.parametrize(("fields", "pattern"), FORMS)
def test_completion_when_a_form_is_demanded_then_the_whole_text_is_of_it(
    client: openai.OpenAI, fields: dict[str, Any], pattern: str
) -> None:
    choice = client.completions.create(model=MODEL, prompt="Say it:", max_tokens=40, extra_body=fields).choices[0]
    assert choice.finish_reason == "stop"
    assert re.fullmatch(pattern, choice.text)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "((a{50}){50}){40}"}}, "structured_outputs.regex"),
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"grammar": "start: nowhere"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json"),
    ],
)
def test_form_when_it_cannot_be_held_then_the_error_names_it(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as of_text:
        client.completions.create(model=MODEL, prompt="Hi", extra_body=fields)
    with pytest.raises(openai.BadRequestError) as of_chat:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}], extra_body=fields)
    assert (of_text.value.param, of_chat.value.param) == (param, param)


def test_tokens_when_only_some_are_allowed_then_no_other_comes(client: openai.OpenAI) -> None:
    ids = encoding().encode(" yes no")
    fields = {"allowed_token_ids": ids, "return_token_ids": True}
    asked: Any = client.completions.create(model=MODEL, prompt="Hi", max_tokens=20, extra_body=fields)
    assert set(asked.choices[0].token_ids) <= set(ids)
    assert asked.choices[0].finish_reason == "length"


# --- clients that speak to Triton directly --------------------------------------------------------------------------


def generate(server: LiveServer, model: str, inputs: dict[TensorSpec, np.ndarray]) -> list[int]:
    """Return the tokens of a whole stream. Raises what ends it."""
    answers: queue.SimpleQueue[tuple[triton.InferResult | None, Exception | None]] = queue.SimpleQueue()
    tensors = []
    for spec, numbers in inputs.items():
        tensors.append(triton.InferInput(spec.name, [len(numbers)], spec.datatype))
        tensors[-1].set_data_from_numpy(numbers)
    ids: list[int] = []
    with triton.InferenceServerClient(server.grpc) as client:
        client.start_stream(partial(lambda out, result, error: out.put((result, error)), answers))
        client.async_stream_infer(model, tensors, enable_empty_final_response=True)
        while True:
            result, error = answers.get(timeout=60)
            if error is not None:
                raise error
            assert result is not None
            if (tokens := result.as_numpy(TOKEN_IDS.name)) is not None:
                ids += tokens.tolist()
            if result.get_response().parameters["triton_final_response"].bool_param:
                return ids


def test_ensemble_when_the_chat_demands_json_then_it_is_valid(server: LiveServer) -> None:
    sampling = SamplingParams(max_tokens=1500, seed=3, logit_bias={END: 30.0, RETURN: 30.0})
    wanted = ResponseFormat(Order.model_json_schema())
    chat = ChatRequest((ChatMessage(Role.USER, "An order."),), response_format=wanted, sampling=sampling)
    raw = np.frombuffer(CHAT_CODEC.encode(chat), dtype=np.uint8)
    splitter = ChannelSplitter()
    deltas = [*splitter.push(generate(server, DEMO.ensemble, {CHAT: raw})), *splitter.finish()]
    Order.model_validate_json("".join(delta.text for delta in deltas if isinstance(delta, ContentDelta)))


@pytest.mark.parametrize("name", list(BuiltinName))
def test_ensemble_when_a_builtin_tool_is_demanded_then_it_is_called(server: LiveServer, name: BuiltinName) -> None:
    chat = ChatRequest(
        (ChatMessage(Role.USER, "Look it up."),),
        builtin_tools=(BuiltinTool(name),),
        tool_choice=ToolChoice(ToolChoiceMode.REQUIRED),
        sampling=SamplingParams(max_tokens=1500, seed=3, logit_bias={END: 30.0, CALL: 30.0} | ENDS_JSON),
    )
    raw = np.frombuffer(CHAT_CODEC.encode(chat), dtype=np.uint8)
    splitter = ChannelSplitter((), recipients([name]))
    deltas = [*splitter.push(generate(server, DEMO.ensemble, {CHAT: raw})), *splitter.finish()]
    [called] = [delta for delta in deltas if isinstance(delta, ToolCallDelta)]
    assert called.name in recipients([name])
    if name is BuiltinName.BROWSER:
        assert isinstance(json.loads(called.arguments), dict)


def test_model_when_its_sampling_holds_a_faulty_structure_then_the_error_names_it(server: LiveServer) -> None:
    sampling = SamplingParams(structure=OutputStructure(ResponseFormat({"type": "nothing"})))
    raw = np.frombuffer(SAMPLING_CODEC.encode(sampling), dtype=np.uint8)
    with pytest.raises(InferenceServerException, match=r"response_format\.json_schema\.schema: .*nothing"):
        generate(server, DEMO.triton, {PROMPT_IDS: np.array([1, 2], dtype=np.int32), SAMPLING: raw})
