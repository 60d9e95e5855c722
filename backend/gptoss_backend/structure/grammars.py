"""Grammars over the Harmony vocabulary: of a message's header, and of its text.

Stage: before 4 schedule; on Triton's thread, never on the engine's.
Owns: the library's view of the vocabulary, the grammars' texts, the compiled ones of late.
Does not know: which grammar is due when (answer.py).

A compiled grammar is copied for each answer in 2 microseconds; the copies share what the library learns on the way.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Set
from functools import cache
from typing import Final

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from gptoss_backend.contract import BuiltinName, FunctionTool, OutputStructure, Tool
from gptoss_backend.harmony.builtin_tools import PYTHON, functions
from gptoss_backend.harmony.custom_tools import CLOSING, OPENING, QUOTED_CHARACTER
from gptoss_backend.harmony.header import NAMESPACE
from gptoss_backend.harmony.tool_names import TOOL_NAME
from gptoss_backend.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    VOCAB_SIZE,
    encoding,
    token_bytes,
)
from gptoss_backend.structure.checking import Patience
from gptoss_backend.structure.schemas import LIMITS, MAX_WHITESPACE, StructureError, arguments_schema, final_schema
from gptoss_backend.structure.text_forms import form_grammar

_IN_STRING: Final = r'[^"\\\x00-\x1F\x7F]'
_SLICES: Final = (
    r"[ \t\r\n]+",
    f"[ \\t\\r\\n]{{1,{MAX_WHITESPACE}}}",
    *(f"{_IN_STRING}{{1,{length}}}" for length in (5, 10, 20, 30, 64)),
    f"{_IN_STRING}+",
)
"""Kinds of tokens that the library decides on together, where all of a kind fit. Its own are fewer, and twice as slow
in strings of a greatest length."""
_SILENT: Final = 0
_NUM_KEPT: Final = 512
"""About 100 KB each as compiled: the tools of a few busy agents."""
_MOST_LEARNED_S: Final = 1.5
"""Of masks' time, over all that is kept: what a grammar remembers it has computed, 8 to 200 bytes in a microsecond.
Seen: 14 schemas of long strings, 1,000 tokens each, take 60 MB together, where each had kept 20; of a pattern over all
letters one answer takes 400 MB until it outgrows its limits, and further ones take no more."""


def final_text(structure: OutputStructure) -> Compiled | None:
    """Return the grammar of the final text and its end, None where it is free. Raises StructureError."""
    ends = (RETURN, END, ENDOFTEXT) if structure.is_whole else (RETURN, END)
    if structure.final is not None:
        return _kept.get(_json_text(final_schema(structure.final), ends=ends), structure.final.where)
    if structure.form is not None:
        return _kept.get(_nested(form_grammar(structure.form), ends=ends), structure.form.where)
    return None


def arguments(structure: OutputStructure) -> dict[str, Compiled]:
    """Return the grammar of each tool's arguments or input and their end, by whom a call is to. Raises StructureError.

    Where only one call may come, `<|call|>` alone ends it; else `<|end|>` leaves room for a further one.
    """
    ends = (CALL, END) if structure.parallel_tool_calls else (CALL,)
    patience, held = Patience(), dict[str, Compiled]()
    for position, tool in enumerate(structure.tools):
        patience.check(f"tools[{position}].{tool.type}")
        held[f"{NAMESPACE}{tool.name}"] = _of_call(tool, position, ends)
    return held


def _of_call(tool: Tool, position: int, ends: tuple[int, ...]) -> Compiled:
    where = f"tools[{position}].{tool.type}"
    if not TOOL_NAME.fullmatch(tool.name):
        raise StructureError(f"{where}.name: {tool.name!r} is no tool name.")
    if isinstance(tool, FunctionTool):
        return _kept.get(_json_text(arguments_schema(tool, position), ends=ends), f"{where}.parameters")
    if tool.form is None:
        return _kept.get(_quoted_text(ends=ends), where)
    return _kept.get(_nested(form_grammar(tool.form), ends=ends), tool.form.where)


def builtin_arguments(structure: OutputStructure) -> dict[str, Compiled]:
    """Return the grammar of what calls of built-in tools hold and of their end, by whom a call is to.

    `<|call|>` alone ends them: the model was trained to wait for the result.
    """
    held = {
        tool.name: _kept.get(_json_text(arguments_schema(tool), ends=(CALL,)), tool.name)
        for name in structure.builtins
        for tool in functions(name)
    }
    if BuiltinName.PYTHON in structure.builtins:
        held[PYTHON] = _kept.get(_any_text(ends=(CALL,)), PYTHON)
    return held


def header(
    callees: Set[str], plain: Set[str], *, may_reason: bool, may_speak: bool, is_held: bool, is_json: bool
) -> Compiled:
    """Return the grammar of a message's header, from `<|start|>` to `<|message|>`.

    callees: whom calls may be to. plain: of these, who takes a text as it is, which the header says. may_reason:
    whether anything may come in `analysis`. may_speak: whether text for the user may come, in `final` and, unless that
    is held to a form (is_held), maybe JSON (is_json), in `commentary`: a preamble, which may also come where a call
    must follow. Without reasoning none comes where no call can follow: it would be reasoning by another name.
    """
    kinds = [_token(CHANNEL) + ' "analysis" ' + _token(MESSAGE)] if may_reason else []
    if may_speak:
        typed = "typed " if is_json else ""
        kinds.append(f'{_token(CHANNEL)} "final" {typed}{_token(MESSAGE)}')
    if not is_held and (may_reason or callees):
        kinds.append(f'{_token(CHANNEL)} "commentary" {_token(MESSAGE)}')
    rules = [
        f'typed: (" json" | " code" | " "? {_token(CONSTRAIN)} ("json" | "code"))?',
        'CHANNEL: "commentary"' + (' | "analysis"' if may_reason else ""),
    ]
    for recipient, names, typed in (("recipient", callees - plain, "typed"), ("plain_recipient", plain, '" code"')):
        if names:
            # models write a call's recipient in either section, and some call from their reasoning
            kinds.append(f"{_token(CHANNEL)} CHANNEL {recipient} {typed} {_token(MESSAGE)}")
            kinds.append(f"{recipient} {_token(CHANNEL)} CHANNEL {typed} {_token(MESSAGE)}")
            rules.append(f'{recipient}: " to=" {recipient.upper()}')
            rules.append(f"{recipient.upper()}: {' | '.join(map(json.dumps, sorted(names)))}")
    text = f'start: {_token(START)} "assistant" message\nmessage: ' + "\n | ".join(kinds)
    return _kept.get(LLMatcher.grammar_from_lark("\n".join([text, *rules])), "tools")


def load_vocabulary() -> None:
    """Make the library's view of the vocabulary: 70 MB, and a second during which no other Python runs."""
    _tokenizer()


class Compiled:
    """A grammar, to be copied for each answer, and what its answers have cost."""

    def __init__(self, matcher: LLMatcher, where: str) -> None:
        """where: the part of a request that it comes of."""
        self._matcher = matcher
        self.where = where
        self.learned_s = 0.0
        """Time spent on masks; what is remembered grows with it. Written by the engine's thread."""
        self.is_spent = False
        """It has outgrown its limits: what its copies learned fills those of all. Written by the engine's thread."""

    def begin(self) -> LLMatcher:
        """Return a copy at the grammar's beginning."""
        return self._matcher.deep_copy()


class _Kept:
    """The compiled grammars of late. Triton's thread only."""

    def __init__(self) -> None:
        self._grammars: OrderedDict[tuple[str, str], Compiled] = OrderedDict()

    def get(self, grammar: str, where: str) -> Compiled:
        """Return what is kept, or compile. Raises StructureError."""
        found = self._grammars.pop((grammar, where), None)
        if found is None or found.is_spent:
            self._make_room()
            found = _compile(grammar, where)
        self._grammars[grammar, where] = found
        return found

    def _make_room(self) -> None:
        while len(self._grammars) >= _NUM_KEPT:
            self._grammars.popitem(last=False)
        learned_s = sum(kept.learned_s for kept in self._grammars.values())
        while learned_s > _MOST_LEARNED_S:
            key, dearest = max(self._grammars.items(), key=lambda item: item[1].learned_s)
            learned_s -= dearest.learned_s
            del self._grammars[key]


_kept = _Kept()


def _json_text(schema: str, *, ends: tuple[int, ...]) -> str:
    text = f"start: text end\nend: {' | '.join(map(_token, ends))}\ntext: %json {schema}"
    return LLMatcher.grammar_from_lark(text)


def _quoted_text(*, ends: tuple[int, ...]) -> str:
    opening, closing = json.dumps(OPENING), json.dumps(CLOSING)
    text = f"start: {opening} CHARACTERS {closing} end\nend: {' | '.join(map(_token, ends))}"
    return LLMatcher.grammar_from_lark(f"{text}\nCHARACTERS: /(?:{QUOTED_CHARACTER})*/")


def _any_text(*, ends: tuple[int, ...]) -> str:
    text = f"start: TEXT end\nend: {' | '.join(map(_token, ends))}\nTEXT: /(.|\\n)*/"
    return LLMatcher.grammar_from_lark(text)


def _nested(grammar: str, *, ends: tuple[int, ...]) -> str:
    """Return a grammar, whose own names stay its own, and an end after it."""
    outer = f"start: @text end\nend: {' | '.join(map(_token, ends))}"
    return json.dumps(
        {"grammars": [{"name": "answer", "lark_grammar": outer}, {"name": "text", "lark_grammar": grammar}]}
    )


def _token(token: int) -> str:
    return f"<[{token}]>"


def _compile(grammar: str, where: str) -> Compiled:
    """Compile, without holding Python's lock. Raises StructureError."""
    matcher = LLMatcher(_tokenizer(), grammar, log_level=_SILENT, limits=LIMITS)
    if matcher.is_error():
        raise StructureError(f"{where}: no grammar can be made of it: {matcher.get_error().splitlines()[0][:200]}")
    return Compiled(matcher, where)


@cache
def _tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Vocabulary()), n_vocab=VOCAB_SIZE, eos_token=RETURN, slices=list(_SLICES))


class _Vocabulary:
    """The vocabulary as the library asks for it."""

    eos_token_id = RETURN
    bos_token_id = None
    special_token_ids = range(FIRST_SPECIAL, VOCAB_SIZE)

    def __init__(self) -> None:
        self.tokens = [token_bytes(token) for token in range(VOCAB_SIZE)]

    def __call__(self, text: bytes | str) -> list[int]:
        plain = text if isinstance(text, str) else text.decode()
        ids: list[int] = encoding().encode(plain, disallowed_special=())
        return ids
