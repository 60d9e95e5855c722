"""The names that Triton knows: tensors with their dtypes, the model that makes prompts, a parameter.

Stage: every hop between the adapter (or any Triton client) and the stubs.
Owns: which tensors go into a model and come out.
Does not know: the documents in them (codecs.py), Triton's client and stub libraries.

Each tensor is one-dimensional: INT32 token ids, or UINT8 holding one UTF-8 JSON document (TEXT: plain UTF-8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PREPROCESS: Final = "preprocess"
"""The model that makes prompts, in Triton's repository."""
CHECKPOINT_PARAMETER: Final = "checkpoint"
"""Of a generation model's config in Triton: the checkpoint to load in place of that of the settings."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named one-dimensional tensor of the contract."""

    name: str
    datatype: Literal["UINT8", "INT32"]


CHAT: Final = TensorSpec("CHAT", "UINT8")
PROMPT_IDS: Final = TensorSpec("PROMPT_IDS", "INT32")
SAMPLING: Final = TensorSpec("SAMPLING", "UINT8")
TOKEN_IDS: Final = TensorSpec("TOKEN_IDS", "INT32")
TEXT: Final = TensorSpec("TEXT", "UINT8")
EVENT: Final = TensorSpec("EVENT", "UINT8")

PREPROCESS_INPUTS: Final = (CHAT,)
PREPROCESS_OUTPUTS: Final = (PROMPT_IDS, SAMPLING)
GENERATE_INPUTS: Final = (PROMPT_IDS, SAMPLING)
GENERATE_OUTPUTS: Final = (TOKEN_IDS, TEXT, EVENT)
