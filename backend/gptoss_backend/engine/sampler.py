"""Choosing the next token of each sequence from its logits.

Owns: the order of the filters (temperature, top-k, top-p, min-p) and the draw.
Does not know: batches, caches, what a token means.

Each sequence draws one uniform number a token from its own generator and looks it up in the cumulative distribution,
so a seeded request gives the same tokens whatever shares its batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.sequence import Sequence

# most filters keep few tokens: try these many before sorting a vocabulary of 201,088
_SHORTLIST = 1024


class Sampler:
    """Picks tokens for a batch of sequences with any mix of parameters."""

    @staticmethod
    def needs_logits(sequences: list[Sequence]) -> bool:
        """True where the likeliest tokens alone do not suffice for these sequences."""
        return any(sequence.request.sampling.temperature > 0 for sequence in sequences)

    def pick(self, output: StepOutput, sequences: list[Sequence]) -> list[int]:
        """Return one token for each sequence."""
        tokens = list(output.best)
        if output.logits is None:
            return tokens
        logits = output.logits
        plain: list[int] = []
        filtered: list[int] = []
        for index, sequence in enumerate(sequences):
            sampling = sequence.request.sampling
            if sampling.temperature > 0:
                has_filter = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
                (filtered if has_filter else plain).append(index)
        if plain:
            self._place(tokens, plain, _draw_plain(logits[plain], [sequences[i] for i in plain]))
        if filtered:
            self._place(tokens, filtered, _draw_filtered(logits[filtered], [sequences[i] for i in filtered]))
        return tokens

    @staticmethod
    def _place(tokens: list[int], indices: list[int], drawn: Tensor) -> None:
        for index, token in zip(indices, drawn.tolist(), strict=True):
            tokens[index] = token


def _column(values: list[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def _probabilities(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    temperatures = [sequence.request.sampling.temperature for sequence in sequences]
    return torch.softmax(logits / _column(temperatures, logits), dim=-1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return, for each row, the first index at which the cumulative weight passes uniform × total."""
    # in double: over 201,088 terms a float32 sum drifts by more than the rarest tokens weigh
    cumulative = weights.cumsum(dim=-1, dtype=torch.float64)
    targets = uniforms.double() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, targets, right=True).clamp_(max=weights.shape[-1] - 1)[:, 0]


def _draw_plain(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    uniforms = torch.tensor([[s.random.random()] for s in sequences], dtype=torch.float64, device=logits.device)
    return _invert(_probabilities(logits, sequences), uniforms)


def _draw_filtered(logits: Tensor, sequences: list[Sequence]) -> Tensor:
    probabilities = _probabilities(logits, sequences)
    size = min(_SHORTLIST, probabilities.shape[-1])
    ranked, tokens = torch.topk(probabilities, size, dim=-1)
    if not _shortlist_suffices(ranked, sequences):
        ranked, tokens = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    kept = ranked * _kept(ranked, sequences)
    uniforms = torch.tensor([[s.random.random()] for s in sequences], dtype=torch.float64, device=logits.device)
    return tokens.gather(1, _invert(kept, uniforms)[:, None])[:, 0]


def _kept(ranked: Tensor, sequences: list[Sequence]) -> Tensor:
    """Return which of the probabilities, ranked from the largest, pass each row's filters; bool, same shape."""
    params = [sequence.request.sampling for sequence in sequences]
    ranks = torch.arange(ranked.shape[-1], device=ranked.device)
    kept = ranks < _column([p.top_k or ranked.shape[-1] for p in params], ranked)
    # top-p looks at what top-k left: the smallest set that reaches p of it
    allowed = ranked * kept
    has_top_k = _column([float(p.top_k > 0) for p in params], ranked) > 0
    total = torch.where(has_top_k, allowed.sum(dim=-1, keepdim=True), 1.0)
    before = allowed.cumsum(dim=-1) - allowed
    kept &= before < _column([p.top_p for p in params], ranked) * total
    kept &= ranked >= _column([p.min_p for p in params], ranked) * ranked[:, :1]
    return kept


def _shortlist_suffices(ranked: Tensor, sequences: list[Sequence]) -> bool:
    """True where every row's filters end before the shortlist does."""
    params = [sequence.request.sampling for sequence in sequences]
    size = ranked.shape[-1]
    mass = ranked.sum(dim=-1).tolist()
    lowest = (ranked[:, -1] / ranked[:, 0]).tolist()
    return all(
        0 < p.top_k <= size or (p.top_p < 1 and m > p.top_p + 1e-4) or (p.min_p > 0 and low < p.min_p)
        for p, m, low in zip(params, mass, lowest, strict=True)
    )
