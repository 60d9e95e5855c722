"""What the model thought of a token: its log probability, and the likeliest alternatives.

Stage 5 of a request: step. Owns: log probabilities out of logits, the order among equals.
Does not know: how the token was chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.engine.ranking import likeliest


def token_logprobs(logits: Tensor, tokens: list[int], num_alternatives: int) -> list[TokenLogprob]:
    """Tell the log probability of one token in each row. logits: [num_rows, vocab], as the model gave them."""
    normalizers = logits.logsumexp(dim=-1, keepdim=True)
    own = (logits.gather(1, torch.tensor(tokens, device=logits.device)[:, None]) - normalizers).clamp_(max=0.0)
    if not num_alternatives:
        return [TokenLogprob(token, logprob) for token, (logprob,) in zip(tokens, own.tolist(), strict=True)]
    values, others = likeliest(logits, num_alternatives)
    logprobs = (values - normalizers).clamp_(max=0.0).tolist()
    tops = [tuple(map(Alternative, *row)) for row in zip(others.tolist(), logprobs, strict=True)]
    return [
        TokenLogprob(token, logprob, top) for token, (logprob,), top in zip(tokens, own.tolist(), tops, strict=True)
    ]


def token_logprob(logits: Tensor, token: int, best: int, num_alternatives: int) -> TokenLogprob:
    """Tell a token's log probability. logits: [vocab], as the model gave them; best: the likeliest token."""
    # softmax is one fast pass where logsumexp takes three; the best token's probability never underflows
    normalizer = float(logits[best]) - math.log(float(torch.softmax(logits, dim=-1)[best]))
    chosen = float(logits[token])
    pairs = _ranked(logits, token, chosen, num_alternatives) if num_alternatives else []
    top = tuple(Alternative(other, min(logit - normalizer, 0.0)) for logit, other in pairs)
    return TokenLogprob(token, min(chosen - normalizer, 0.0), top)


def _ranked(logits: Tensor, token: int, chosen: float, count: int) -> list[tuple[float, int]]:
    """Return the largest logits and their tokens, of equal ones the lowest id first, as the greedy choice has it.

    Where not all of the last place's equals find room, `token` does if it is one of them; `chosen`: its logit.
    """
    values, tokens = (each[0].tolist() for each in likeliest(logits[None], count))
    last = values[-1]
    above = [(value, other) for value, other in zip(values, tokens, strict=True) if value > last]
    # topk takes any of equal logits; in bfloat16 they are common
    equals = (logits == last).nonzero()[: len(values) - len(above), 0].tolist()
    if chosen == last and token not in equals:
        equals[-1] = token
    return sorted(above, key=lambda pair: (-pair[0], pair[1])) + [(last, other) for other in equals]
