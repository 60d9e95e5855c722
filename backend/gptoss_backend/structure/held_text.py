"""A grammar's place in one text, and the answer that is such a text from its first token to its last.

Stage 5 of a request: step; called by the engine for each token, see `engine/grammar.py`.
Owns: what becomes of a grammar that fails amid a text.
Does not know: Harmony's messages (answer.py), how grammars are made.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor

from gptoss_backend.contract import OutputStructure
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.harmony.vocabulary import ENDS, VOCAB_SIZE
from gptoss_backend.structure import grammars
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.grammars import Compiled
from gptoss_backend.structure.schemas import StructureError

_NOT_ALLOWED = "satisfy the grammar"  # the library's words for a token that may not come
_MOST_MASK_S = 10.0
_MASK_S_A_TOKEN = 0.001
"""Added for each. Usual masks take 0.02 to 0.2 ms."""


@dataclass(slots=True)
class _MaskTime:
    """What the masks of one text may take together: all other answers wait meanwhile."""

    left_s: float


class HeldText:
    """A text at its grammar's beginning."""

    def __init__(self, grammar: Compiled, begun: Sequence[int] = ()) -> None:
        """begun: tokens that have come already."""
        self._grammar = grammar
        self._matcher = grammar.begin()
        self._time = _MaskTime(_MOST_MASK_S)
        if begun:
            self._matcher.consume_tokens(list(begun))

    def begin_with(self, token_ids: Sequence[int]) -> bool:
        """Go on by the text's first tokens, microseconds each; False where the grammar takes no such beginning."""
        return self._matcher.try_consume_tokens(list(token_ids)) == len(token_ids)

    def fork(self) -> HeldText:
        """Return another at the same place, which goes on by itself, but in the same time."""
        fork = copy(self)
        fork._matcher = self._matcher.deep_copy()
        return fork

    def fill(self, bits: Tensor) -> None:
        """Write which tokens may come next. bits: [6284] int32. Raises StructureOutgrown."""
        started = time.perf_counter()
        self._matcher.unsafe_compute_mask_ptr(bits.data_ptr(), bits.numel() * bits.element_size())
        took_s = time.perf_counter() - started
        self._grammar.learned_s += took_s
        self._time.left_s += _MASK_S_A_TOKEN - took_s
        if self._matcher.is_error():
            self._give_up()
        if self._time.left_s < 0:
            raise StructureOutgrown(f"{self._grammar.where}: its grammar is too slow: ask for simpler patterns")

    def accept(self, token: int) -> None:
        """Go on by a token. Raises StructureOutgrown, and RuntimeError for a token that may not come."""
        if not self._matcher.consume_token(token):
            self._give_up()

    def _give_up(self) -> NoReturn:
        self._grammar.is_spent = True
        error = self._matcher.get_error()
        if _NOT_ALLOWED in error:
            raise RuntimeError(error)
        raise StructureOutgrown(
            f"{self._grammar.where}: its grammar outgrew the limits amid the answer "
            f"({error.splitlines()[0][:100]}): ask for shorter strings or simpler patterns"
        )


class WholeTextMask:
    """A `TokenMask`: an answer without Harmony's messages, held from its first token on, at its beginning."""

    def __init__(self, structure: OutputStructure) -> None:
        """Compile what is not known from before. Raises StructureError."""
        check_structure(structure)
        grammar = grammars.final_text(structure)
        if grammar is None:
            raise StructureError("structured_outputs: there is nothing to hold the text to.")
        self._text = HeldText(grammar)
        self._is_finished = False

    @property
    def num_tokens(self) -> int:
        """As many as the published checkpoints have."""
        return VOCAB_SIZE

    @property
    def is_finished(self) -> bool:
        """True after the token that ends the text."""
        return self._is_finished

    def fork(self) -> WholeTextMask:
        """Return another at the same place, which goes on by itself."""
        fork = copy(self)
        fork._text = self._text.fork()
        return fork

    def fill(self, bits: Tensor) -> bool:
        """Write which tokens may come next. bits: [6284] int32. Raises StructureOutgrown."""
        self._text.fill(bits)
        return True

    def accept(self, token: int) -> None:
        """Go on by a token. Raises StructureOutgrown, and RuntimeError for a token that may not come."""
        self._text.accept(token)
        self._is_finished = token in ENDS
