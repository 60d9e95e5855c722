"""What the model thought of a token: its log probability, and the likeliest alternatives.

Stage 5 of a request: step. Owns: log probabilities out of logits, what is told of equals.
Does not know: how the token was chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.engine.ranking import ranked
from gptoss_backend.engine.transfer import to_device


def token_logprobs(logits: Tensor, tokens: list[int], counts: list[int]) -> list[TokenLogprob]:
    """Tell the log probability of one token in each row, and the likeliest, as many as `counts` says of it.

    logits: [num_rows, vocab] float32, as the model gave them. Of equals the lowest id is told first, as the greedy
    choice has it; where not all of the last place's equals find room, the row's token does if it is one of them.
    A device is waited for once.
    """
    there, most = to_device(tokens, torch.int64, logits.device), max(counts, default=0)
    if logits.device.type != "cpu" or len(tokens) < 2:
        return tell(weigh(logits, there, most), counts)
    # row by row, since one fits a core's cache
    rows = [weigh(row[None], token[None], most) for row, token in zip(logits, there, strict=True)]
    return tell(torch.cat(rows), counts)


def weigh(logits: Tensor, tokens: Tensor, most: int) -> Tensor:
    """Return what `tell` needs of each row, [num_rows, 3 + 2 × min(most, vocab)] float64; waits for no device.

    logits: as above; tokens: [num_rows] int64; most: of the likeliest that are told of a row.
    """
    # softmax is one fast pass where logsumexp takes three; the likeliest token's probability never underflows
    likelihoods = torch.softmax(logits, dim=-1).amax(dim=-1, keepdim=True).double()
    normalizers = logits.amax(dim=-1, keepdim=True).double() - likelihoods.log()
    best = ranked(logits, most) if most else ()
    return torch.cat((tokens[:, None].double(), logits.gather(1, tokens[:, None]).double(), normalizers, *best), dim=1)


def tell(weighed: Tensor, counts: list[int]) -> list[TokenLogprob]:
    """Return the log probabilities in what `weigh` returned, of each row with as many of the likeliest as `counts`."""
    width = (weighed.shape[1] - 3) // 2
    told = []
    for (token, own, normalizer, *best), count in zip(weighed.tolist(), counts, strict=True):
        top = list(zip(best[:width], best[width:], strict=True))[:count]
        if top and own == top[-1][0] and (own, token) not in top:
            top[-1] = (own, token)
        alternatives = tuple(Alternative(int(other), min(logit - normalizer, 0.0)) for logit, other in top)
        told.append(TokenLogprob(int(token), min(own - normalizer, 0.0), alternatives))
    return told
