"""What the model thought of a token: its log probability, and the likeliest alternatives.

Stage 5 of a request: step. Does not know: how the token was chosen.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptoss_backend.contract import Alternative, TokenLogprob
from gptoss_backend.engine.ranking import likeliest


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
