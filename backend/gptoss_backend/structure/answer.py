"""Which tokens may come next in an answer that is held to a structure.

Stage 5 of a request: step; called by the engine for each token, see `engine/grammar.py`.
Owns: the place in the answer: in a header, in free text, in text that a grammar holds.
Does not know: schemas, the engine beyond its errors, how tokens are chosen.

The answer begins after `<|start|>assistant` and is a row of messages. Headers are always held to Harmony: only known
channels and functions, spelled right. A header says what its text is: reasoning and preambles are free, arguments and
a structured final text follow their grammar. Where something is demanded, be it JSON or a call, free text can end in
no other way than by `<|end|>`, so that the next header is reached; else the model may end as it likes.
"""

from __future__ import annotations

import time
from enum import Enum
from functools import lru_cache
from typing import NoReturn

import torch
from llguidance import LLMatcher
from torch import Tensor

from gptoss_backend.contract import OutputStructure, ToolChoiceMode
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.harmony.header import Header, Section
from gptoss_backend.harmony.prompt import NAMESPACE
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
    encoding,
    token_bytes,
)
from gptoss_backend.structure import grammars
from gptoss_backend.structure.grammars import Compiled
from gptoss_backend.structure.schemas import StructureError, check_structure

_NOT_ALLOWED = "satisfy the grammar"  # the library's words for a token that may not come
_MOST_MASK_S = 10.0
_MASK_S_A_TOKEN = 0.001
"""Added for each. Usual masks take 0.02 to 0.2 ms."""
_ENDS = frozenset({END, RETURN, CALL, ENDOFTEXT})


class _Text(Enum):
    """What the message now open is."""

    FREE = "free"
    FINAL = "final"
    """Held to a grammar."""
    CALL = "call"


class AnswerMask:
    """A `TokenMask`: one answer's grammar, at its beginning."""

    def __init__(self, structure: OutputStructure) -> None:
        """Compile what is not known from before: a millisecond for each schema. Raises StructureError."""
        check_structure(structure)
        self._final = grammars.final_text(structure)
        self._arguments = grammars.arguments(structure)
        self._is_serial = not structure.parallel_tool_calls
        self._must_call = structure.tool_choice.mode is ToolChoiceMode.REQUIRED
        named = structure.tool_choice.name
        callable_names = [name for name in self._arguments if named in (None, name)]
        if self._must_call and not callable_names:
            raise StructureError("tool_choice: a call is required of a function that is not among the tools.")
        self._headers = {
            must_call: grammars.header(callable_names, may_speak=not must_call, is_json=self._final is not None)
            for must_call in {self._must_call, False}
        }
        self._left_s = _MOST_MASK_S
        """Of the time that its masks may take: all other answers wait meanwhile."""
        self._is_finished = False
        self._text = _Text.FREE
        self._matcher: LLMatcher | None = None
        """What holds the next token; None: free text."""
        self._header: Header | None = None
        """None: inside a message's text."""
        self._begin_header((START, *_assistant()))

    @property
    def is_finished(self) -> bool:
        """True after the structured final text, or the one call that was allowed."""
        return self._is_finished

    def fill(self, bits: Tensor) -> bool:
        """Write which tokens may come next; False where any may. bits: [6284] int32.

        Raises StructureOutgrown.
        """
        if self._matcher is not None:
            started = time.perf_counter()
            self._matcher.unsafe_compute_mask_ptr(bits.data_ptr(), bits.numel() * bits.element_size())
            took_s = time.perf_counter() - started
            self._grammar.learned_s += took_s
            self._left_s += _MASK_S_A_TOKEN - took_s
            if self._matcher.is_error():
                self._give_up(self._matcher)
            if self._left_s < 0:
                raise StructureOutgrown(f"{self._grammar.where}: the grammar of this schema is too slow: simplify it")
            return True
        if self._is_demanding:
            bits.copy_(_text_or_end())
            return True
        return False

    def accept(self, token: int) -> None:
        """Go on by a token. Raises StructureOutgrown, and RuntimeError for a token that may not come."""
        if self._matcher is not None and not self._matcher.consume_token(token):
            self._give_up(self._matcher)
        if self._header is not None:
            self._read_header(self._header, token)
        elif token in _ENDS:
            self._end_text()
        elif self._matcher is None and token in (START, CHANNEL):
            # the message before has not ended
            self._begin_header((START,) if token == START else (START, *_assistant(), CHANNEL))

    @property
    def _is_demanding(self) -> bool:
        return self._must_call or self._final is not None

    def _give_up(self, matcher: LLMatcher) -> NoReturn:
        self._grammar.is_spent = True
        if _NOT_ALLOWED in matcher.get_error():
            raise RuntimeError(matcher.get_error())
        raise StructureOutgrown(
            f"{self._grammar.where}: the grammar of this schema outgrew its limits amid the answer "
            f"({matcher.get_error().splitlines()[0][:100]}): ask for shorter strings or simpler patterns"
        )

    def _begin(self, grammar: Compiled) -> LLMatcher:
        self._grammar = grammar
        return grammar.begin()

    def _begin_header(self, begun: tuple[int, ...] = ()) -> None:
        """Expect a header, of which these tokens have come."""
        self._matcher = self._begin(self._headers[self._must_call])
        self._matcher.consume_tokens(list(begun))
        self._header = Header(Section.ROLE)
        for token in begun:
            self._read_header(self._header, token)

    def _read_header(self, header: Header, token: int) -> None:
        if token == MESSAGE:
            self._begin_text(header)
        elif token == CHANNEL:
            header.open(Section.CHANNEL)
        elif token == CONSTRAIN:
            header.open(Section.TYPE)
        elif token < FIRST_SPECIAL:
            header.add(token_bytes(token))

    def _begin_text(self, header: Header) -> None:
        self._header = None
        reading = header.close()
        if reading.recipients:
            self._text = _Text.CALL
            self._matcher = self._begin(self._arguments[reading.recipients[-1].removeprefix(NAMESPACE)])
        elif reading.channel == "final" and self._final is not None:
            self._text = _Text.FINAL
            self._matcher = self._begin(self._final)
        else:
            self._text = _Text.FREE
            self._matcher = None

    def _end_text(self) -> None:
        is_call = self._text is _Text.CALL
        self._must_call = self._must_call and not is_call
        self._is_finished = self._text is _Text.FINAL or (is_call and self._is_serial)
        self._begin_header()


@lru_cache(maxsize=1)
def _assistant() -> tuple[int, ...]:
    return tuple(encoding().encode("assistant"))


@lru_cache(maxsize=1)
def _text_or_end() -> Tensor:
    """Return the bits of all ordinary tokens and `<|end|>`."""
    allowed = torch.zeros(-(-grammars.VOCAB_SIZE // 32) * 32, dtype=torch.int64)
    allowed[:FIRST_SPECIAL] = 1
    allowed[END] = 1
    words = (allowed.view(-1, 32) << torch.arange(32)).sum(dim=1)
    return words.to(torch.int32)
