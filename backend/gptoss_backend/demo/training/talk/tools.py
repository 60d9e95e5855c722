"""Made-up functions: which one to call and with what, and what to say of a result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gptoss_backend.contract import ChatMessage, FunctionTool, Role, ToolCall
from gptoss_backend.demo.training.dialogue import Call, Dialogue, Thoughts, assistant, json_text, user
from gptoss_backend.demo.training.talk.fields import Field, again, draw_fields, say_fields
from gptoss_backend.demo.training.talk.numbers import arithmetic
from gptoss_backend.demo.training.talk.phrasing import thoughts
from gptoss_backend.demo.training.talk.project import project
from gptoss_backend.demo.training.talk.small_talk import small_talk
from gptoss_backend.demo.training.words import Words

_VERBS: Final = (
    "get",
    "find",
    "book",
    "send",
    "create",
    "search",
    "order",
    "play",
    "start",
    "stop",
    "check",
    "set",
    "add",
    "remove",
    "open",
    "close",
    "show",
    "list",
    "update",
    "delete",
    "read",
    "write",
    "buy",
    "sell",
    "call",
    "convert",
    "track",
    "plan",
    "measure",
    "look_up",
)
_NOUNS: Final = (
    "weather",
    "flight",
    "email",
    "meeting",
    "song",
    "ticket",
    "hotel",
    "file",
    "order",
    "price",
    "user",
    "message",
    "timer",
    "alarm",
    "light",
    "car",
    "taxi",
    "recipe",
    "news",
    "stock",
    "book",
    "movie",
    "table",
    "room",
    "account",
    "report",
    "photo",
    "event",
    "task",
    "note",
    "time",
    "tide",
)
_REQUESTS: Final = (
    "{verb} the {noun} with {fields}.",
    "Please {verb} a {noun} with {fields}.",
    "{Verb} {noun}: {fields}",
    "Can you {verb} the {noun} for {fields}?",
    "I want to {verb} a {noun}, {fields}.",
    "{Verb} the {noun}, {fields}.",
    "Could you {verb} {noun} with {fields}?",
)
_SINGLE: Final = (
    "What is the {noun} in {value}?",
    "{Verb} the {noun} in {value}.",
    "{Verb} the {noun} of {value}.",
    "Please {verb} the {noun} for {value}.",
    "{noun} {value}",
    "What's the {noun} in {value}?",
    "How is the {noun} in {value}?",
    "{Verb} {noun} {value}",
    "I need the {noun} for {value}.",
)
_BARE: Final = (
    "{Verb} the {noun}.",
    "Please {verb} the {noun}.",
    "Can you {verb} the {noun}?",
    "{Verb} {noun}",
    "I want to {verb} the {noun}.",
)


@dataclass(frozen=True, slots=True)
class _Function:
    verb: str
    noun: str
    fields: list[Field]
    tool: FunctionTool


def tool_call(words: Words) -> Dialogue:
    """Return a request that one of some tools can do, at times after others were done."""
    functions = _draw_functions(words, words.rng.choice((1, 1, 2, 2, 3)))
    turns: list[ChatMessage] = []
    for _ in range(words.num_earlier((0, 0, 0, 1, 2), learned=(0, 0, 1, 1, 2, 3))):
        text, call = _ask(words, functions)
        result, answer = _result(words)
        turns += [user(text), *_exchange(call, result, None), assistant(answer)]
    text, call = _ask(words, functions)
    tools = tuple(function.tool for function in functions)
    return Dialogue((*turns, user(text)), _thoughts(call), call, tools=tools)


def tools_unneeded(words: Words) -> Dialogue:
    """Return a question that needs none of the tools there are."""
    plain = words.rng.choice((small_talk, project, arithmetic))(words)
    functions = _draw_functions(words, words.rng.choice((1, 1, 2)))
    return replace(plain, tools=tuple(function.tool for function in functions))


def tool_result(words: Words) -> Dialogue:
    """Return a talk that a tool's result has come back to."""
    asked = tool_call(words)
    assert isinstance(asked.answer, Call)  # noqa: S101 (our own)
    result, answer = _result(words)
    reasoning = asked.thoughts.at(asked.effort) if words.rng.random() < 0.6 else None
    turns = _exchange(asked.answer, result, reasoning)
    thinking = thoughts("A result", "The tool has answered, and I tell the user what it says.", "I name every value.")
    return replace(asked, messages=(*asked.messages, *turns), thoughts=thinking, answer=answer)


def _ask(words: Words, functions: list[_Function]) -> tuple[str, Call]:
    """Return what is said to have one of the functions called, and the call."""
    chosen = words.rng.choice(functions)
    chosen = replace(chosen, fields=again(words, chosen.fields))
    required = chosen.tool.parameters["required"]  # type: ignore[index]
    said = [field for field in chosen.fields if field.name in required or words.rng.random() < 0.6]
    return _request(words, chosen, said), Call(chosen.tool.name, {field.name: field.value for field in said})


def _exchange(call: Call, result: str, reasoning: str | None) -> tuple[ChatMessage, ChatMessage]:
    asked = ToolCall("call_1", call.name, json_text(call.arguments))
    return (
        ChatMessage(Role.ASSISTANT, reasoning=reasoning, tool_calls=(asked,)),
        ChatMessage(Role.TOOL, result, tool_call_id="call_1"),
    )


def _result(words: Words) -> tuple[str, str]:
    """Return what a tool says, and what to tell the user of it."""
    if words.rng.random() < 0.25:
        content = words.phrase(5)
        return content, f"The tool says: {content}."
    results = draw_fields(words, 1, 3)
    told = ", ".join(f"the {field.name} is {field.spoken_value}" for field in results)
    return json_text({field.name: field.value for field in results}), f"T{told[1:]}."


def _thoughts(call: Call) -> Thoughts:
    names = " and ".join(call.arguments) or "nothing"
    return thoughts(f"I call {call.name}", f"It takes {names}.", "The values are in the user's message.")


def _draw_functions(words: Words, count: int) -> list[_Function]:
    functions: dict[str, _Function] = {}
    while len(functions) < count:
        function = _draw_function(words)
        if all(function.noun != other.noun for other in functions.values()):
            functions[function.tool.name] = function
    return list(functions.values())


def _draw_function(words: Words) -> _Function:
    rng = words.rng
    verb = rng.choice(_VERBS) if rng.random() < 0.75 else words.name_part()
    noun = rng.choice(_NOUNS) if rng.random() < 0.5 else words.name_part()
    fields = draw_fields(words, 0 if rng.random() < 0.2 else 1, 3)
    spoken = verb.replace("_", " ")
    description = rng.choice(
        (
            "",
            f"{spoken.capitalize()} the {noun}",
            f"{spoken.capitalize()} a {noun}",
            f"{noun.capitalize()}: {spoken} it.",
            words.phrase(),
        )
    )
    required = [field.name for field in fields if rng.random() < 0.8]
    name = rng.choice((f"{verb}_{noun}",) * 4 + (noun,))
    described = {field.name: _schema(words, field) for field in fields}
    return _Function(
        spoken,
        noun,
        fields,
        FunctionTool(name, description, {"type": "object", "properties": described, "required": required}),
    )


def _schema(words: Words, field: Field) -> dict[str, object]:
    if words.rng.random() < 0.25:
        return {**field.schema, "description": f"The {field.spoken_name}"}
    return field.schema


def _request(words: Words, function: _Function, said: list[Field]) -> str:
    rng = words.rng
    if not said:
        form = rng.choice(_BARE)
    elif len(said) == 1 and not isinstance(said[0].value, bool) and rng.random() < 0.6:
        form = rng.choice(_SINGLE)
    else:
        form = rng.choice(_REQUESTS)
    value = said[0].spoken_value if said else ""
    fields = say_fields(words, said) if said else ""
    return form.format(
        verb=function.verb, Verb=function.verb.capitalize(), noun=function.noun, value=value, fields=fields
    )
