"""The fields of chats and completions about the tokens behind an answer, and about what ended it: vLLM's.

Stage: 2 validate.
Owns: these fields, their types and bounds.
Does not know: how they are answered (told_tokens.py).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gptoss_adapter.schemas.fields import ListOf, NotHonoured, RequestModel
from gptoss_adapter.schemas.sampling import TokenId


class RawOutputFields(RequestModel):
    """What vLLM's clients ask for where they think in tokens."""

    return_token_ids: bool | None = None
    """Tell the ids of the prompt's tokens and of the answer's, those of special tokens among them."""
    include_stop_str_in_output: bool | None = None
    """The text ends with the stop string or token that ended it, rather than before."""
    allowed_token_ids: Annotated[ListOf[TokenId], Field(min_length=1, max_length=1024)] | None = None
    """No other token comes, not even one to stop at."""
    bad_words: Annotated[object, NotHonoured([], instead="bar tokens with 'logit_bias'")] = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Tell how likely the prompt's tokens were, and so many alternatives for each; not in a stream."""
