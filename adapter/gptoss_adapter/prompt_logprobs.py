"""How a prompt's log probabilities are told: before a completion's own, where it echoes the prompt, and as vLLM does.

Stage: 7 SSE.
Owns: the two shapes.
Does not know: where the log probabilities come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_adapter.content import ContentToken
from gptoss_adapter.logprobs import finite, text_logprobs, text_name
from gptoss_adapter.schemas.answers import PromptLogprob, TextLogprobs
from gptoss_backend.contract import TokenLogprob
from gptoss_backend.harmony.vocabulary import TextDecoder


def echoed_logprobs(prompt: Sequence[int], scores: Sequence[TokenLogprob], answer: TextLogprobs) -> TextLogprobs:
    """Return the `logprobs` of a text that begins with its prompt: nothing came before the first token to tell by.

    scores: of the prompt's tokens but the first. answer: of the text behind.
    """
    starts = _starts(prompt)
    told = text_logprobs(ContentToken(start, one) for start, one in zip(starts[1:], scores, strict=True))
    return TextLogprobs(
        tokens=[text_name(prompt[0]), *told.tokens, *answer.tokens],
        token_logprobs=[None, *told.token_logprobs, *answer.token_logprobs],
        top_logprobs=[None, *told.top_logprobs, *answer.top_logprobs],
        text_offset=[0, *told.text_offset, *answer.text_offset],
    )


def prompt_logprobs(scores: Sequence[TokenLogprob]) -> list[dict[int, PromptLogprob] | None]:
    """Return vLLM's `prompt_logprobs`, null for the first token. The rank of one that is not among the likeliest: null.

    scores: of the prompt's tokens but the first.
    """
    return [None, *map(_entries, scores)]


def _entries(score: TokenLogprob) -> dict[int, PromptLogprob]:
    told = {score.token_id: _entry(score.token_id, score.logprob, None)}
    return told | {token: _entry(token, logprob, rank) for rank, (token, logprob) in enumerate(score.top, start=1)}


def _entry(token: int, logprob: float, rank: int | None) -> PromptLogprob:
    return PromptLogprob(logprob=finite(logprob), rank=rank, decoded_token=text_name(token))


def _starts(token_ids: Sequence[int]) -> list[int]:
    """Return how many characters of the text stand before each token; the tokens of one character share theirs."""
    decoder, num_chars, starts = TextDecoder(), 0, list[int]()
    for token in token_ids:
        starts.append(num_chars)
        num_chars += len(decoder.push((token,)))
    return starts
