"""Dialogues → batches of tokens, the same ones from the same seed.

Owns: which dialogues come in which order, padding, the numbering of tokens within a batch.
Does not know: the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from random import Random
from typing import Final

import torch
from torch import Tensor

from gptoss_backend.demo.rows import Spellings
from gptoss_backend.demo.training.dialogue import Example, example_of
from gptoss_backend.demo.training.mixture import EFFORTS, Setting, draw_mixed
from gptoss_backend.harmony.vocabulary import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START, VOCAB_SIZE

_GROUP: Final = 150
"""Dialogues that share a system message; a block has one group for each of `EFFORTS`."""
_BATCH_TOKENS: Final = 4000
_NUM_NEGATIVES: Final = 2048
_SPECIAL: Final = (RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL)
_SURVEYED: Final = 20_000
_LEAST_USES: Final = 40


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded dialogues. Tokens are numbered: the known ones, then `others`."""

    shared: Tensor
    """[shared_length] what all of them begin with; nothing of it is to be predicted"""
    tokens: Tensor
    """[num_dialogues, length] what follows"""
    is_target: Tensor
    """[num_dialogues, length] bool; padding never is"""
    others: Tensor
    """ids of unknown tokens: those that occur, their other spellings, then random ones that stand for all the rest"""
    num_listed: int
    """of `others`, how many stand for themselves alone"""

    def to(self, device: torch.device) -> Batch:
        """Return the same on another device."""
        return Batch(
            self.shared.to(device),
            self.tokens.to(device),
            self.is_target.to(device),
            self.others.to(device),
            self.num_listed,
        )


def known_tokens(seed: int) -> Tensor:
    """Return the ids, sorted, of the tokens that the dialogues use often: those are learned, all others are copied."""
    rng = Random(f"survey {seed}")
    uses: Counter[int] = Counter()
    for _ in range(_SURVEYED):
        uses.update(set(example_of(draw_mixed(rng)).tokens))
    return torch.tensor(sorted({token for token, count in uses.items() if count >= _LEAST_USES} | set(_SPECIAL)))


class Batcher:
    """Makes the batches of one run."""

    def __init__(self, known: Tensor, spellings: Spellings, seed: int) -> None:
        self._seed = seed
        self._stems = spellings.stems
        self._num_known = len(known)
        self._number = torch.full((VOCAB_SIZE,), -1)
        self._number[known] = torch.arange(len(known))
        self._unknown = torch.nonzero(self._number < 0).flatten()

    def block(self, index: int) -> list[Batch]:
        """Return the batches of the block of that index, in random order."""
        rng = Random(f"block {self._seed} {index}")
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        batches: list[Batch] = []
        for effort in EFFORTS:
            setting = Setting.draw(rng, effort)
            examples = [example_of(draw_mixed(rng, setting)) for _ in range(_GROUP)]
            batches += [self.batch(part, generator) for part in _parts(examples)]
        rng.shuffle(batches)
        return batches

    def batch(self, examples: Sequence[Example], generator: torch.Generator) -> Batch:
        """Return some dialogues as a batch. generator: of the random tokens beside theirs."""
        length = max(len(example.tokens) for example in examples)
        ids = torch.zeros(len(examples), length, dtype=torch.int64)
        is_target = torch.zeros(len(examples), length, dtype=torch.bool)
        for row, example in enumerate(examples):
            ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
            is_target[row, : len(example.tokens)] = torch.tensor(example.is_target)
        occurring = torch.unique(ids[self._number[ids] < 0])
        listed = torch.cat((occurring, self._other_spellings(occurring)))
        drawn = self._unknown[torch.randint(len(self._unknown), (_NUM_NEGATIVES,), generator=generator)]
        others = torch.cat((listed, drawn[~torch.isin(drawn, listed)]))
        tokens = self._number[ids]
        tokens = torch.where(tokens < 0, torch.searchsorted(occurring, ids) + self._num_known, tokens)
        begin = _num_shared(examples)
        return Batch(tokens[0, :begin], tokens[:, begin:], is_target[:, begin:], others, len(listed))

    def _other_spellings(self, occurring: Tensor) -> Tensor:
        """Return the unknown tokens that differ from one of these by their traits alone.

        They are what a copy is most easily mistaken for, and too few for random tokens to name them.
        """
        is_related = torch.isin(self._stems[self._unknown], self._stems[occurring])
        related = self._unknown[is_related]
        return related[~torch.isin(related, occurring)]


def _num_shared(examples: Sequence[Example]) -> int:
    """Return how many tokens all begin with; what predicts their first target is never among them."""
    first_target = min(example.is_target.index(True) for example in examples)
    columns = zip(*(example.tokens[: first_target - 1] for example in examples), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))


def _parts(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    """Cut dialogues into batches of like length, of at most so many tokens without what they share."""
    whole = _num_shared(examples)
    examples = sorted(examples, key=lambda example: len(example.tokens))
    begin = 0
    for end in range(1, len(examples) + 1):
        if end == len(examples) or (len(examples[end].tokens) - whole) * (end + 1 - begin) > _BATCH_TOKENS:
            yield examples[begin:end]
            begin = end
