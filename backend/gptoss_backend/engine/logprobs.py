"""What the model thought of a token: its log probability, and the likeliest alternatives.

Stage 5 of a request: step. Owns: log probabilities out of logits, the order among equals.
Does not know: how the token was chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.engine.ranking import likeliest
from gptoss_backend.engine.transfer import to_device


def token_logprobs(logits: Tensor, tokens: list[int], counts: list[int]) -> list[TokenLogprob]:
    """Tell the log probability of one token in each row, and the likeliest, as many as `counts` says of it.

    logits: [num_rows, vocab], as the model gave them. Of equals the lowest id is told first, as the greedy choice has
    it; where not all of the last place's equals find room, the row's token does if it is one of them.
    A device is waited for once; twice more where some row's last place has equals that are left out.
    """
    chosen = logits.gather(1, to_device(tokens, torch.int64, logits.device)[:, None]).double()
    # one more than are told says whether the last place has equals that are left out
    best = likeliest(logits, most + 1) if (most := max(counts, default=0)) else ()
    # softmax is one fast pass where logsumexp takes three; the likeliest token's probability never underflows
    likelihoods = torch.softmax(logits, dim=-1).amax(dim=-1, keepdim=True).double()
    peaks = best[0][:, :1] if best else logits.amax(dim=-1, keepdim=True)
    columns = (chosen, peaks.double() - likelihoods.log(), *best)
    rows = torch.cat(columns, dim=1).tolist()  # doubles: a token's id is in them, too
    width = best[0].shape[1] if best else 0
    ranked = [list(zip(row[2 : 2 + width], map(int, row[2 + width :]), strict=True)) for row in rows]
    told = [sorted(top[:count], key=_by_likelihood) for top, count in zip(ranked, counts, strict=True)]
    # in bfloat16 equals are common
    torn = {row: told[row] for row, count in enumerate(counts) if _is_torn(ranked[row], count)}
    for row, equals in _first_equals(logits, torn).items():
        is_equal = rows[row][0] == told[row][-1][0]
        told[row] = _share_last(told[row], equals, tokens[row] if is_equal else None)
    return [
        TokenLogprob(token, min(own - normalizer, 0.0), _alternatives(top, normalizer))
        for token, (own, normalizer, *_), top in zip(tokens, rows, told, strict=True)
    ]


def _by_likelihood(ranked: tuple[float, int]) -> tuple[float, int]:
    logit, token = ranked
    return -logit, token


def _alternatives(ranked: list[tuple[float, int]], normalizer: float) -> tuple[Alternative, ...]:
    return tuple(Alternative(other, min(logit - normalizer, 0.0)) for logit, other in ranked)


def _is_torn(ranked: list[tuple[float, int]], count: int) -> bool:
    """Say whether one of the first `count` equals one behind them."""
    return 0 < count < len(ranked) and ranked[count - 1][0] == ranked[count][0]


def _share_last(top: list[tuple[float, int]], equals: list[int], token: int | None) -> list[tuple[float, int]]:
    """Return the largest logits and their tokens with the lowest of `equals` in the places of the last logit.

    equals: of those that have it the first, at least one for each place; token: one of all, which gets a place.
    """
    last = top[-1][0]
    above = [pair for pair in top if pair[0] > last]
    kept = equals[: len(top) - len(above)]
    if token is not None and token not in kept:
        kept[-1] = token
    return above + [(last, other) for other in kept]


def _first_equals(logits: Tensor, torn: dict[int, list[tuple[float, int]]]) -> dict[int, list[int]]:
    """Return the tokens whose logit is a row's last, the lowest ids first, at least one for each place that has it."""
    if not torn:
        return {}
    rows, device = list(torn), logits.device
    values = logits.index_select(0, to_device(rows, torch.int64, device))
    lasts = to_device([top[-1][0] for top in torn.values()], logits.dtype, device)
    places, tokens = (values == lasts[:, None]).nonzero().unbind(1)
    # of a row whose logits are all equal no more than are told of any
    firsts = torch.searchsorted(places.contiguous(), torch.arange(len(rows), device=device))
    first_few = firsts[:, None] + torch.arange(max(map(len, torn.values())), device=device)
    return dict(zip(rows, tokens[first_few.clamp_(max=len(tokens) - 1)].tolist(), strict=True))
