"""What a request changes in its own logits before a token is chosen.

Stage 5 of a request: step. Owns: the order of the changes: bias and penalties, then which tokens may come: of those
allowed the grammar's, without barred stops. Does not know: sampling. Requests that change nothing have no `LogitEdits`
and cost nothing.

What is a request's own is in its `LogitEdits`; the arithmetic is done for many rows at once, since on a GPU each
operation takes the host some microseconds, however many rows it is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import numpy as np
import torch
from torch import Tensor

from gptoss_backend.contract import GenerationErrorCode, SamplingParams
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.penalties import Penalties, penalise
from gptoss_backend.engine.token_bits import Bits, all_bits, bits_of, exclude, has_any, without
from gptoss_backend.engine.transfer import sent

_FIRST_TOKEN = np.zeros(1, dtype=np.int64)


class LogitEdits:
    """One request's changes. Each token: `prepare`, where that says so `bits` or `apply_edits`, then `accept`."""

    @classmethod
    def of(
        cls, sampling: SamplingParams, prompt_ids: Iterable[int], stop_tokens: frozenset[int], grammar: Grammar | None
    ) -> LogitEdits | None:
        """Return what a request changes, None where it changes nothing. All tokens are within the vocabulary.

        stop_tokens: barred until `min_tokens`.
        """
        penalties = Penalties(sampling, prompt_ids) if Penalties.are_asked_for(sampling) else None
        is_asked = sampling.logit_bias or sampling.min_tokens or sampling.allowed_token_ids
        if penalties is None and grammar is None and not is_asked:
            return None
        return cls(sampling, penalties, stop_tokens, grammar)

    def __init__(
        self,
        sampling: SamplingParams,
        penalties: Penalties | None,
        stop_tokens: frozenset[int],
        grammar: Grammar | None,
    ) -> None:
        self._bias_ids = np.array(list(sampling.logit_bias), dtype=np.int64)
        self._biases = np.array(list(sampling.logit_bias.values()), dtype=np.float32)
        self._penalties = penalties
        allowed = sampling.allowed_token_ids
        self._allowed_ids = None if allowed is None else np.array(sorted(set(allowed)), dtype=np.int64)
        self._allowed: Bits | None = None
        """The same, once somebody has asked"""
        self._stop_ids = np.array(sorted(stop_tokens), dtype=np.int64)
        self._num_barred = sampling.min_tokens if stop_tokens else 0
        """Tokens during which stop tokens may not come."""
        self._num_accepted = 0
        self._grammar = grammar
        self._has_mask = False
        self.is_due = False
        """True where the next token's logits are to be changed."""

    @property
    def is_finished(self) -> bool:
        """True where the grammar says that the answer is complete."""
        return self._grammar is not None and self._grammar.is_finished

    @property
    def fault(self) -> str | None:
        """A sentence, where the request cannot go on."""
        return None if self._grammar is None else self._grammar.fault

    @property
    def fault_code(self) -> GenerationErrorCode | None:
        """What the fault is to a client."""
        return None if self._grammar is None else self._grammar.fault_code

    def prepare(self) -> bool:
        """Get ready for the next token; True where its logits are to be changed."""
        self._has_mask = self._grammar is not None and self._grammar.prepare()
        self.is_due = self._excludes or self.reweights
        return self.is_due

    @property
    def reweights(self) -> bool:
        """True where a bias or a penalty changes logits that stay finite: such rows are computed in float32."""
        return self._penalties is not None or len(self._bias_ids) > 0

    def bits(self, vocab: int) -> tuple[Bits | None, bool]:
        """Return which tokens may come next, None: all, and whether the grammar leaves any; before the next `prepare`.

        Where it leaves none, the first token may come: one is chosen all the same, and `leave_nothing` is to be called.
        What leaves nothing but stop tokens outweighs `min_tokens`. That those left have logits is not looked at.
        """
        if not self._excludes:
            return None, True
        bits = self._grammar.bits(vocab) if self._grammar is not None and self._has_mask else all_bits(vocab)
        if self._allowed_ids is not None:
            if self._allowed is None:
                self._allowed = bits_of(self._allowed_ids, vocab)
            bits = bits & self._allowed
        if self._has_mask and not has_any(bits):
            return bits_of(_FIRST_TOKEN, vocab), False
        if self._is_barring:
            rest = without(bits, self._stop_ids)
            bits = rest if has_any(rest) else bits
        return bits, True

    def behind(self, guess: int) -> LogitEdits | None:
        """Return the changes one token on, unprepared; None where the grammar ends with it, or does not let it come.

        After `prepare`; to be used before the next `accept`.
        """
        fork = copy(self)
        fork._num_accepted += 1
        fork._penalties = None if self._penalties is None else self._penalties.behind(guess)
        if self._grammar is not None:
            fork._grammar = self._grammar.behind(guess)
            if fork._grammar is None or fork._grammar.is_finished:
                return None
        return fork

    def leave_nothing(self) -> None:
        """Note that the grammar left not one token, though the answer is not finished."""
        if self._grammar is not None:
            self._grammar.leave_nothing()

    def accept(self, token: int) -> None:
        """Note the token chosen."""
        self._num_accepted += 1
        if self._penalties is not None:
            self._penalties.count(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    @property
    def _excludes(self) -> bool:
        return self._has_mask or self._is_barring or self._allowed_ids is not None

    @property
    def _is_barring(self) -> bool:
        return self._num_accepted < self._num_barred


def apply_edits(edits: list[LogitEdits], rows: Tensor) -> list[bool]:
    """Change the next tokens' logits in place, for each request its row; at least one stays finite.

    edits: due ones. rows: [n, vocab], contiguous; float32 where one of them reweights. Returns of each whether its
    grammar leaves a token; where not, `leave_nothing` is to be called. Waits for no device.
    """
    _bias(edits, rows)
    _penalise(edits, rows)
    vocab = rows.shape[1]
    found = [each.bits(vocab) for each in edits]
    if any(bits is not None for bits, _ in found):
        exclude([all_bits(vocab) if bits is None else bits for bits, _ in found], rows)
    return [is_left for _, is_left in found]


def _bias(edits: list[LogitEdits], rows: Tensor) -> None:
    biased = [(row, each) for row, each in enumerate(edits) if len(each._bias_ids)]
    if biased:
        biases = _sent([each._biases for _, each in biased], rows)
        rows.view(-1).index_add_(0, _spots([(row, each._bias_ids) for row, each in biased], rows), biases)


def _penalise(edits: list[LogitEdits], rows: Tensor) -> None:
    numbers = [(row, each._penalties.numbers()) for row, each in enumerate(edits) if each._penalties is not None]
    if numbers:
        logits, spots = rows.view(-1), _spots([(row, ids) for row, (ids, _) in numbers], rows)
        penalised = penalise(logits[spots], _sent([of_each for _, (_, of_each) in numbers], rows))
        logits.index_copy_(0, spots, penalised)


def _spots(tokens: list[tuple[int, np.ndarray]], rows: Tensor) -> Tensor:
    """Return where tokens of some rows lie in all rows, one behind the other. tokens: rows, and ids in each."""
    return _sent([row * rows.shape[1] + ids for row, ids in tokens], rows)


def _sent(numbers: list[np.ndarray], rows: Tensor) -> Tensor:
    """Return numbers side by side, where the rows are."""
    return sent(torch.from_numpy(np.concatenate(numbers, axis=-1)), rows.device)
