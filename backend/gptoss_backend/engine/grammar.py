"""The hook for grammars: which tokens may come next in an answer.

Stage 5 of a request: step. Owns: the protocol, a mask's bits between the step's start and its token, and what becomes
of a grammar that fails. Does not know: JSON, schemas, any grammar library, logits.
"""

from __future__ import annotations

import logging
from typing import Protocol, Self

import torch
from torch import Tensor

from gptoss_backend.contract import GenerationErrorCode
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.engine.token_bits import Bits, fitted

logger = logging.getLogger(__name__)

_FAILED = "the grammar of this request failed"


class TokenMask(Protocol):
    """A grammar's place in one answer. Called on the engine's thread, for every token of that answer in order.

    The bits are those that xgrammar and llguidance write.
    """

    @property
    def num_tokens(self) -> int:
        """How many ids its bits are for, from 0 on; a model's further ones may never come where the bits are read."""

    @property
    def is_finished(self) -> bool:
        """True where nothing may follow: the engine ends the request with STOP."""

    def fill(self, bits: Tensor) -> bool:
        """Write which tokens may come next; changes nothing else.

        bits: [ceil(num_tokens / 32)] int32 on the CPU; token t is bit t % 32 of word t // 32, set where it may come.
        Returns False where any token may, which costs the engine nothing; the bits are not read then.
        """

    def accept(self, token: int) -> None:
        """Go on by a token, constrained or not, the one that ends the answer included."""

    def fork(self) -> Self:
        """Return another at the same place, which goes on by itself: what comes behind a guess is looked up in it."""


class Grammar:
    """One request's mask and its bits. An exception out of the mask ends its own request, not the step."""

    fault: str | None = None
    """A sentence, where the request cannot go on."""
    fault_code: GenerationErrorCode | None = None
    """None: the fault is ours."""

    def __init__(self, mask: TokenMask, request_id: str | None) -> None:
        """request_id: None: a fault is not worth a line in the log."""
        self._mask = mask
        self._request_id = request_id
        self._bits = torch.zeros(-(-mask.num_tokens // 32), dtype=torch.int32)
        self._words = self._bits.numpy()  # the same memory
        self._has_bits = False

    def bits(self, vocab: int) -> Bits:
        """Return which tokens of a model's vocabulary may come next; after `prepare`, where that says so.

        To be read before the next `prepare`, and not written to.
        """
        return fitted(self._words, self._mask.num_tokens, vocab)

    @property
    def is_finished(self) -> bool:
        """True where the answer is complete."""
        return self.fault is None and self._mask.is_finished

    def prepare(self) -> bool:
        """Fill the bits for the next token; False where any token may come."""
        self._has_bits = False
        try:
            self._has_bits = self.fault is None and self._mask.fill(self._bits)
        except Exception as error:  # noqa: BLE001 (ends its own request; _note logs it)
            self._note(error)
        return self._has_bits

    def behind(self, guess: int) -> Grammar | None:
        """Return the grammar one token on, unprepared; None where it does not let that come. After `prepare`.

        What fails there is told of once the guess stands, if it fails again; a mask without forks ends its request.
        """
        if self.fault is not None:
            return None
        is_known = 0 <= guess < self._mask.num_tokens
        if self._has_bits and not (is_known and int(self._words[guess // 32]) >> guess % 32 & 1):
            return None
        try:
            fork = Grammar(self._mask.fork(), request_id=None)
        except Exception as error:  # noqa: BLE001 (ends its own request; _note logs it)
            self._note(error)
            return None
        fork.accept(guess)
        return fork if fork.fault is None else None

    def accept(self, token: int) -> None:
        """Tell the mask of the token chosen."""
        try:
            if self.fault is None:
                self._mask.accept(token)
        except Exception as error:  # noqa: BLE001 (ends its own request; _note logs it)
            self._note(error)

    def leave_nothing(self) -> None:
        """Note that not one token may come, though the answer is not finished."""
        self.fault = "the grammar of this request leaves no token to choose"
        self.fault_code = GenerationErrorCode.STRUCTURE_FAILED
        self._log(logging.WARNING, self.fault)

    def _note(self, error: Exception) -> None:
        if isinstance(error, StructureOutgrown):
            self.fault, self.fault_code = str(error), GenerationErrorCode.STRUCTURE_FAILED
            self._log(logging.WARNING, self.fault)
        else:
            self.fault = _FAILED
            self._log(logging.ERROR, "its grammar failed; it ends with an error", error)

    def _log(self, level: int, sentence: str, error: Exception | None = None) -> None:
        if self._request_id is not None:
            logger.log(level, "request %s: %s", self._request_id, sentence, exc_info=error)
