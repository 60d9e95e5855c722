"""The next token's distribution as the definitions read: in loops, one token after another, in Python floats."""

from __future__ import annotations

import math
from collections import Counter

from gptoss_backend.contract import SamplingParams


def plain_logits(
    logits: list[float],
    sampling: SamplingParams,
    prompt_ids: list[int],
    generated: list[int],
    stop_tokens: frozenset[int] = frozenset(),
    allowed: set[int] | None = None,
) -> list[float]:
    """Return the logits after bias, penalties, barred stop tokens and grammar."""
    counts = Counter(generated)
    result = []
    for token, logit in enumerate(logits):
        logit += sampling.logit_bias.get(token, 0.0)
        if token in counts or token in prompt_ids:
            logit = logit / sampling.repetition_penalty if logit > 0 else logit * sampling.repetition_penalty
        if token in counts:
            logit -= counts[token] * sampling.frequency_penalty + sampling.presence_penalty
        if (token in stop_tokens and len(generated) < sampling.min_tokens) or (
            allowed is not None and token not in allowed
        ):
            logit = -math.inf
        result.append(logit)
    return result


def plain_distribution(logits: list[float], sampling: SamplingParams) -> list[float]:
    """Return each token's probability after temperature, min-p, top-k and top-p."""
    largest = max(logits)
    weights = [math.exp((logit - largest) / sampling.temperature) for logit in logits]
    likely = [token for token, weight in enumerate(weights) if weight >= sampling.min_p]
    ranked = sorted(likely, key=lambda token: -weights[token])[: sampling.top_k or None]
    total = math.fsum(weights[token] for token in ranked)
    kept: set[int] = set()
    mass = 0.0
    for token in ranked:
        if sampling.top_p < 1.0 and mass >= sampling.top_p * total:
            break
        mass += weights[token]
        kept.add(token)
    total = math.fsum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(weights))]
