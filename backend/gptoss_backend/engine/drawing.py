"""Drawing a token from a row of logits: by one uniform number, looked up in the cumulative distribution.

Stage 5 of a request: step. Owns: temperature, the filters min-p, top-k and top-p, the arithmetic of the draw.
Does not know: requests, seeds, batches beyond rows side by side.

A row's token depends on that row alone, and is the same, but for rounding, whoever draws it: this, with a shortlist or
without, or a GPU's kernels. Sums run in double precision here: over 201,088 terms a float32 sum drifts by more than the
rarest tokens weigh.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.ranking import fold, likeliest
from gptoss_backend.engine.transfer import to_device

ROWS_AT_ONCE = 32
"""Rows to draw for at once, where they are many: each takes three times its logits in memory meanwhile."""

# trained models put 90% of their weight on fewer tokens nearly always
_SHORTLIST = 128
_COLUMN = 128
# the least top-p times a mass below 1 would round to 0, which nothing is below
_LEAST_MASS = 1e-300
# of a float's 32 bits those that make a bucket: sign, exponent and 8 of the fraction
_BUCKET_SHIFT = 15
_NUM_BUCKETS = (0x3F800000 >> _BUCKET_SHIFT) + 1  # up to the bits of 1.0


def has_filter(sampling: SamplingParams) -> bool:
    """True where some tokens are left out of the draw."""
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def draw_plain(logits: Tensor, samplings: list[SamplingParams], uniforms: Tensor) -> Tensor:
    """Draw a token for each row from all of them. logits: [n, vocab]; uniforms: [n] float64 in [0, 1); returns [n]."""
    return _draw_folded(_probabilities(logits, samplings), uniforms)


def draw_filtered(shortlist: Shortlist, samplings: list[SamplingParams], uniforms: Tensor) -> tuple[Tensor, list[bool]]:
    """Draw a token for each row from what its filters leave: ([n], [n]).

    The second says where the shortlist was long enough; elsewhere the token means nothing: take `draw_exactly`.
    """
    kept, suffices = _filter(shortlist, samplings)
    order = shortlist.order  # that of `_draw_folded`: a number leads to the same token, whatever finds what is kept
    places, _ = _invert(kept.gather(1, order), uniforms[:, None])
    return shortlist.tokens.gather(1, order.gather(1, places))[:, 0], suffices.tolist()


def draw_exactly(logits: Tensor, sampling: SamplingParams, uniform: Tensor) -> Tensor:
    """Draw as `draw_filtered`, for one row, however many tokens the filters leave. logits: [1, vocab]; returns [1]."""
    weights = _probabilities(logits, [sampling])
    least = _least_kept(weights[0], sampling)
    # a comparison into floats, since multiplying by booleans takes four times as long
    return _draw_folded(weights * torch.ge(weights, least, out=torch.empty_like(weights)), uniform)


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The likeliest tokens of some rows: [n, at most 128], the likeliest first."""

    logits: Tensor
    tokens: Tensor
    totals: Tensor
    """[n, 1] float64: the weight of all tokens, relative to the likeliest one's; 0 where nobody asks."""
    vocab: int

    @property
    def is_whole(self) -> bool:
        """True where there are no other tokens."""
        return self.tokens.shape[1] == self.vocab

    @property
    def order(self) -> Tensor:
        """Places in the list by column, and within one by place in it, as `fold` has them: [n, as many]."""
        width = -(-self.vocab // _COLUMN)
        return (self.tokens % width * _COLUMN + self.tokens // width).argsort(dim=1)

    @classmethod
    def of(cls, logits: Tensor, samplings: list[SamplingParams]) -> Shortlist:
        """Rank the rows' likeliest tokens. logits: [n, vocab]."""
        ranked, tokens = likeliest(logits, _SHORTLIST)
        totals = torch.zeros(len(logits), 1, dtype=torch.float64, device=logits.device)
        if any(sampling.top_p < 1.0 and not sampling.top_k for sampling in samplings):
            totals = 1.0 / _probabilities(logits, samplings).gather(1, tokens[:, :1]).double()
        return cls(ranked, tokens, totals, logits.shape[1])

    @classmethod
    def join(cls, parts: list[Shortlist]) -> Shortlist:
        """Put shortlists of one vocabulary below one another."""
        logits, tokens, totals = zip(*((part.logits, part.tokens, part.totals) for part in parts), strict=True)
        return cls(torch.cat(logits), torch.cat(tokens), torch.cat(totals), parts[0].vocab)


def _filter(shortlist: Shortlist, samplings: list[SamplingParams]) -> tuple[Tensor, Tensor]:
    """Return the weights, 0 where left out, [n, m] float64, and whether nothing beyond the shortlist is kept, [n]."""
    ranked, size = shortlist.logits, shortlist.logits.shape[1]
    weights = torch.exp((ranked - ranked[:, :1]).double() / _column([s.temperature for s in samplings], ranked))
    weights *= weights >= _column([s.min_p for s in samplings], ranked)
    top_k = _column([s.top_k or size for s in samplings], ranked)
    kth = ranked.gather(1, top_k.clamp(max=size).long() - 1)
    weights *= ranked >= kth
    # top-p looks at what these left: the smallest set that reaches p of it
    is_all = (weights[:, -1:] == 0) | shortlist.is_whole
    totals = torch.where(is_all, weights.sum(1, True), shortlist.totals)
    limits = _column([s.top_p if s.top_p < 1.0 else torch.inf for s in samplings], ranked) * totals.clamp(min=1.0)
    num_before = (weights.cumsum(1) - weights < limits).sum(1, True)
    weights *= ranked >= ranked.gather(1, (num_before - 1).clamp(min=0))
    is_narrowed = _column([s.top_k > 0 or s.min_p > 0.0 for s in samplings], ranked) > 0  # to an unknown total
    reaches_past = (weights[:, -1] > 0) | (is_narrowed & ~is_all)[:, 0]
    return weights, ~reaches_past | shortlist.is_whole


def _least_kept(weights: Tensor, sampling: SamplingParams) -> float:
    """Return the least weight that passes the filters. weights: [vocab] float32, the largest at most 1."""
    least = sampling.min_p * float(weights.amax())
    if sampling.top_k:
        least = max(least, cutoff(weights, torch.ones_like(weights, dtype=torch.float64), float(sampling.top_k)))
    if sampling.top_p < 1.0:
        doubles = weights.double()
        doubles *= weights >= least
        limit = max(sampling.top_p * float(doubles.sum()), _LEAST_MASS)
        least = max(least, cutoff(weights, doubles, limit))
    return least


def cutoff(values: Tensor, measures: Tensor, limit: float) -> float:
    """Return the least value for which those above it measure less than `limit` together.

    values: [n] float32 from 0 to 1; measures: [n] float64; limit: above 0. Sorting 201,088 values takes 30 ms on a CPU:
    this sums them by their leading bits, which order floats as they order integers, and sorts one bucket only.
    """
    buckets = values.view(torch.int32) >> _BUCKET_SHIFT
    from_top = torch.bincount(buckets, weights=measures, minlength=_NUM_BUCKETS).flip(0).cumsum(0)
    place = int(torch.searchsorted(from_top, limit))
    if place == len(from_top):
        return 0.0
    inside = buckets == len(from_top) - 1 - place
    ranked, order = values[inside].sort(descending=True)
    ranked_measures = measures[inside][order]
    above = (float(from_top[place - 1]) if place else 0.0) + ranked_measures.cumsum(0) - ranked_measures
    num_kept = int((above < limit).sum())
    return float(ranked[max(num_kept, 1) - 1])


def _column(values: list[float], like: Tensor) -> Tensor:
    return to_device(values, torch.float64, like.device)[:, None]


def _probabilities(logits: Tensor, samplings: list[SamplingParams]) -> Tensor:
    if any(sampling.temperature != 1.0 for sampling in samplings):
        logits = logits / _column([sampling.temperature for sampling in samplings], logits).float()
    return torch.softmax(logits, dim=-1)


def _draw_folded(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw by two short cumulative sums, over columns and within one, in place of one over the whole vocabulary."""
    columns = fold(weights, _COLUMN, 0.0)
    column, rest = _invert(columns.sum(dim=1).double(), uniforms[:, None])
    within = columns.gather(2, column[:, None, :].expand(-1, _COLUMN, -1))[:, :, 0]
    place, _ = _invert(within.double(), rest)
    return (place * columns.shape[2] + column)[:, 0]


def _invert(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Look up where the cumulative weight passes uniform × total, never at a weight of 0: [n, 1] both.

    weights: [n, m] float64, not all 0; uniforms: [n, 1]. The second is how far into that weight the uniform fell,
    from 0 to 1: as uniform as the first number, and independent of the place.
    """
    cumulative = weights.cumsum(dim=1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    # clamped for weights that are no numbers: whatever their row's token is, the others have theirs
    place = torch.searchsorted(cumulative, target, right=True).clamp_(max=weights.shape[1] - 1)
    weight = weights.gather(1, place)
    return place, ((target - cumulative.gather(1, place) + weight) / weight).clamp_(0.0, 1.0)
