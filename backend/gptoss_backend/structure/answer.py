"""Which tokens may come next in an answer that is held to a structure.

Stage 5 of a request: step; called by the engine for each token, see `engine/grammar.py`.
Owns: the place in the answer: in a header, in free text, in text that a grammar holds.
Does not know: schemas, the engine beyond its errors, how tokens are chosen.

The answer begins after `<|start|>assistant`, or amid the message that its prompt leaves open, and is a row of messages.
Headers are always held to Harmony: only known channels and tools, spelled right. A header says what its text is:
reasoning and preambles are free, arguments and a structured final text follow their grammar. Where something is
demanded, be it JSON or a call, free text can end in no other way than by `<|end|>`, so that the next header is reached;
else the model may end as it likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from enum import Enum
from functools import lru_cache

import torch
from torch import Tensor

from gptoss_backend.contract import CallSyntax, OutputStructure, ToolChoiceMode
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.harmony.begun import begun_in
from gptoss_backend.harmony.header import NAMESPACE, Header, Section
from gptoss_backend.harmony.vocabulary import (
    CHANNEL,
    CONSTRAIN,
    END,
    ENDS,
    FIRST_SPECIAL,
    MESSAGE,
    START,
    VOCAB_SIZE,
    encoding,
    token_bytes,
)
from gptoss_backend.structure import grammars
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.held_text import HeldText, WholeTextMask
from gptoss_backend.structure.schemas import StructureError


class _Text(Enum):
    """What the message now open is."""

    FREE = "free"
    FINAL = "final"
    """Held to a grammar."""
    CALL = "call"


def mask_of(structure: OutputStructure, prompt_ids: Sequence[int] = ()) -> TokenMask:
    """Return the mask of an answer where its prompt leaves off. Raises StructureError."""
    if structure.is_whole:
        return WholeTextMask(structure)
    mask = AnswerMask(structure)
    mask.begin_with(begun_in(prompt_ids))
    return mask


class AnswerMask:
    """A `TokenMask`: one answer's grammar, at its beginning."""

    def __init__(self, structure: OutputStructure) -> None:
        """Compile what is not known from before: a millisecond for each schema. Raises StructureError."""
        check_structure(structure)
        is_json = structure.final is not None
        self._final = grammars.final_text(structure)
        self._arguments = grammars.arguments(structure) | grammars.builtin_arguments(structure)
        self._is_serial = not structure.parallel_tool_calls
        self._must_call = structure.tool_choice.mode is ToolChoiceMode.REQUIRED
        named = structure.tool_choice.name
        callees = {name for name in self._arguments if named is None or name == f"{NAMESPACE}{named}"}
        if self._must_call and not callees:
            raise StructureError("tool_choice: a call is required of a tool that is not offered.")
        plain = callees & {f"{NAMESPACE}{tool.name}" for tool in structure.tools if tool.syntax is CallSyntax.PLAIN}
        self._headers = {
            must_call: grammars.header(
                callees,
                plain,
                may_reason=structure.may_reason,
                may_speak=not must_call,
                is_held=self._final is not None,
                is_json=is_json,
            )
            for must_call in {self._must_call, False}
        }
        self._is_finished = False
        self._text = _Text.FREE
        self._held: HeldText | None = None
        """What holds the next token; None: free text."""
        self._header: Header | None = None
        """None: inside a message's text."""
        self._begin_header((START, *_assistant()))

    @property
    def num_tokens(self) -> int:
        """As many as the published checkpoints have; what others add stands for no text."""
        return VOCAB_SIZE

    @property
    def is_finished(self) -> bool:
        """True after the structured final text, or the one call that was allowed."""
        return self._is_finished

    def begin_with(self, token_ids: Sequence[int]) -> None:
        """Go on by what of the answer stands in its prompt: nothing, or a header and a text without an end.

        Raises StructureError where what holds the text does not let it begin so.
        """
        num_header = token_ids.index(MESSAGE) + 1 if MESSAGE in token_ids else len(token_ids)
        try:
            for token in token_ids[:num_header]:
                self.accept(token)
            fits = self._held is None or self._held.begin_with(token_ids[num_header:])
        except RuntimeError:  # a header that may not come
            fits = False
        if not fits:
            message = "messages: the last one, which is to be continued, is no beginning of what it is held to."
            raise StructureError(message)

    def fork(self) -> AnswerMask:
        """Return another at the same place, which goes on by itself."""
        fork = copy(self)
        fork._held = None if self._held is None else self._held.fork()
        fork._header = deepcopy(self._header)
        return fork

    def fill(self, bits: Tensor) -> bool:
        """Write which tokens may come next; False where any may. bits: [6284] int32.

        Raises StructureOutgrown.
        """
        if self._held is not None:
            self._held.fill(bits)
            return True
        if self._is_demanding:
            bits.copy_(_text_or_end())
            return True
        return False

    def accept(self, token: int) -> None:
        """Go on by a token. Raises StructureOutgrown, and RuntimeError for a token that may not come."""
        if self._held is not None:
            self._held.accept(token)
        if self._header is not None:
            self._read_header(self._header, token)
        elif token in ENDS:
            self._end_text()
        elif self._held is None and token in (START, CHANNEL):
            # the message before has not ended
            self._begin_header((START,) if token == START else (START, *_assistant(), CHANNEL))

    @property
    def _is_demanding(self) -> bool:
        return self._must_call or self._final is not None

    def _begin_header(self, begun: tuple[int, ...] = ()) -> None:
        """Expect a header, of which these tokens have come."""
        self._held = HeldText(self._headers[self._must_call], begun)
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
            self._held = HeldText(self._arguments[reading.recipients[-1]])
        elif reading.channel == "final" and self._final is not None:
            self._text = _Text.FINAL
            self._held = HeldText(self._final)
        else:
            self._text = _Text.FREE
            self._held = None

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
    allowed = torch.zeros(-(-VOCAB_SIZE // 32) * 32, dtype=torch.int64)
    allowed[:FIRST_SPECIAL] = 1
    allowed[END] = 1
    words = (allowed.view(-1, 32) << torch.arange(32)).sum(dim=1)
    return words.to(torch.int32)
