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
    A device is waited for once; once more where some row's last place has equals that are left out.
    """
    chosen = logits.gather(1, to_device(tokens, torch.int64, logits.device)[:, None]).double()
    # softmax is one fast pass where logsumexp takes three; the likeliest token's probability never underflows
    likelihoods = torch.softmax(logits, dim=-1).amax(dim=-1, keepdim=True).double()
    normalizers = logits.amax(dim=-1, keepdim=True).double() - likelihoods.log()
    columns = [chosen, normalizers]
    if most := max(counts, default=0):
        columns += likeliest(logits, most + 1)  # one more says whether the last place has equals that are left out
    rows = torch.cat(columns, dim=1).tolist()  # doubles: a token's id is in them, too
    width = (len(rows[0]) - 2) // 2 if rows else 0
    ranked = [list(zip(row[2 : 2 + width], map(int, row[2 + width :]), strict=True)) for row in rows]
    tops = [
        sorted(top[:count], key=lambda pair: (-pair[0], pair[1])) for top, count in zip(ranked, counts, strict=True)
    ]
    # in bfloat16 equals are common
    torn = {row: tops[row][-1][0] for row, count in enumerate(counts) if _is_torn(ranked[row], count)}
    for row, equals in _equals(logits, torn).items():
        tops[row] = _share_last(tops[row], equals, tokens[row])
    return [
        TokenLogprob(token, min(own - normalizer, 0.0), _alternatives(top, normalizer))
        for token, (own, normalizer, *_), top in zip(tokens, rows, tops, strict=True)
    ]


def _alternatives(ranked: list[tuple[float, int]], normalizer: float) -> tuple[Alternative, ...]:
    return tuple(Alternative(other, min(logit - normalizer, 0.0)) for logit, other in ranked)


def _is_torn(ranked: list[tuple[float, int]], count: int) -> bool:
    """Say whether one of the first `count` equals one behind them."""
    return 0 < count < len(ranked) and ranked[count - 1][0] == ranked[count][0]


def _share_last(top: list[tuple[float, int]], equals: list[int], token: int) -> list[tuple[float, int]]:
    """Return the largest logits and their tokens with the lowest of `equals` in the places of the last logit.

    equals: all that have it, in order; `token` gets a place if it is one of them.
    """
    last = top[-1][0]
    above = [pair for pair in top if pair[0] > last]
    room = len(top) - len(above)
    kept = [*equals[: room - 1], token if token in equals[room:] else equals[room - 1]]
    return above + [(last, other) for other in kept]


def _equals(logits: Tensor, wanted: dict[int, float]) -> dict[int, list[int]]:
    """Return the tokens whose logit is the one wanted of a row, the lowest id first."""
    if not wanted:
        return {}
    rows = list(wanted)
    values = logits.index_select(0, to_device(rows, torch.int64, logits.device))
    limits = to_device(list(wanted.values()), logits.dtype, logits.device)
    found: dict[int, list[int]] = {row: [] for row in rows}
    for place, token in (values == limits[:, None]).nonzero().tolist():
        found[rows[place]].append(token)
    return found
