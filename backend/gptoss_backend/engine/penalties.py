"""Penalties for tokens that occurred before.

Stage 5 of a request: step. Owns: a sequence's token counts, and the three penalties' arithmetic.
Does not know: where the logits lie, sampling. Work grows with distinct tokens, never with the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import numpy as np
import torch
from torch import Tensor

from gptoss_backend.contract import SamplingParams

# an extreme penalty must not make infinities, whose differences are not numbers
_LARGEST_LOGIT = 1e30


class Penalties:
    """One sequence's repetition, frequency and presence penalties."""

    def __init__(self, sampling: SamplingParams, prompt_ids: Iterable[int]) -> None:
        self._repetition = sampling.repetition_penalty
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._counts = _TokenCounts(prompt_ids if self._repetition != 1.0 else ())
        self._guesses: tuple[int, ...] = ()
        """Behind all that are counted."""

    @staticmethod
    def are_asked_for(sampling: SamplingParams) -> bool:
        """True where any of the three is not neutral."""
        return (
            sampling.repetition_penalty != 1.0 or sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        )

    def count(self, token: int) -> None:
        """Note a generated token."""
        self._counts.add(token)

    def behind(self, guess: int) -> Penalties:
        """Return the penalties one token on; to be read before the next `count`."""
        fork = copy(self)
        fork._guesses = (*self._guesses, guess)
        return fork

    def numbers(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens counted so far, [n] int64, and for `penalise` what becomes of each, [2, n] float64.

        Repetition (arXiv:1909.05858) for tokens of prompt and answer; then frequency and presence, as OpenAI defines
        them, for tokens of the answer.
        """
        ids, counts = self._counts.with_more(self._guesses) if self._guesses else self._counts.arrays()
        subtracted = self._frequency * counts + self._presence * (counts > 0)
        return ids, np.stack([np.full(len(ids), self._repetition), subtracted])


def penalise(logits: Tensor, numbers: Tensor) -> Tensor:
    """Return the logits of tokens that occurred, penalised. logits: [n] float32; numbers: [2, n] float64."""
    divisors, subtracted = numbers
    exact = logits.double()
    penalised: Tensor = torch.where(exact > 0, exact / divisors, exact * divisors) - subtracted
    return penalised.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT).float()


class _TokenCounts:
    """How often each token was generated; those of the prompt are listed with a count of 0."""

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self._slots = {token: slot for slot, token in enumerate(dict.fromkeys(prompt_ids))}
        self._ids = np.fromiter(self._slots, dtype=np.int64, count=len(self._slots))
        self._counts = np.zeros(len(self._slots), dtype=np.int64)

    def add(self, token: int) -> None:
        slot = self._slots.setdefault(token, len(self._slots))
        if slot == len(self._ids):
            room = max(64, len(self._ids))
            self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.int64)])
        self._ids[slot] = token
        self._counts[slot] += 1

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and counts, in step; views, to be read before the next `add`."""
        return self._ids[: len(self._slots)], self._counts[: len(self._slots)]

    def with_more(self, tokens: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return the same as if these had been added; copies."""
        ids, counts = self.arrays()
        new = dict.fromkeys(token for token in tokens if token not in self._slots)
        slots = {token: slot for slot, token in enumerate(new, start=len(ids))}
        ids = np.concatenate([ids, np.array(list(new), dtype=np.int64)])
        counts = np.concatenate([counts, np.zeros(len(new), dtype=np.int64)])
        for token in tokens:
            counts[slots[token] if token in slots else self._slots[token]] += 1
        return ids, counts
