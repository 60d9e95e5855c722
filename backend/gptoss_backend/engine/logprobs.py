"""What the model thought of a token: its log probability, and the likeliest alternatives.

Stage 5 of a request: step. Does not know: how the token was chosen.
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
    top: tuple[Alternative, ...] = ()
    if num_alternatives:
        values, tokens = likeliest(logits[None], num_alternatives)
        pairs = zip(tokens[0].tolist(), values[0].tolist(), strict=True)
        top = tuple(Alternative(other, min(logit - normalizer, 0.0)) for other, logit in pairs)
    return TokenLogprob(token, min(float(logits[token]) - normalizer, 0.0), top)
