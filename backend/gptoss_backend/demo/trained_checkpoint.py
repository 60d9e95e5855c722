"""The demo checkpoint: the shipped weights, and rows made for all tokens that are not among them.

Stage: the first start of the demo.
Owns: the shipped file's tensors besides the layers', and their unpacking into a folder that every GPT-OSS loader reads.
Does not know: how the weights were trained.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptoss_backend.demo.naming import DEMO_NAME, WEIGHTS_FILE, WEIGHTS_KEY, weights_digest
from gptoss_backend.demo.random_checkpoint import Progress, whole_folder, write_documents
from gptoss_backend.demo.rows import Spellings, scaled
from gptoss_backend.demo.shape import TRAINED_SHAPE, trained_document
from gptoss_backend.engine.checkpoint_files import SINGLE_FILE
from gptoss_backend.harmony.vocabulary import VOCAB_SIZE

KNOWN: Final = "demo.known"
"""[num_known] ids of the tokens with a row of their own"""
KNOWN_ROWS: Final = "demo.known_rows"
"""[num_known, hidden] of the embedding"""
KNOWN_OUTPUT_ROWS: Final = "demo.known_output_rows"
"""[num_known, hidden] of the output, not scaled"""
TRAIT_VECTORS: Final = "demo.trait_vectors"
"""[number of traits, hidden] of the embedding"""
TRAIT_OUTPUT_VECTORS: Final = "demo.trait_output_vectors"
"""[number of traits, hidden] of the output, not scaled"""
_TABLE_BYTES: Final = math.prod((VOCAB_SIZE, TRAINED_SHAPE.hidden_size, 2))


def write_trained_checkpoint(folder: Path, *, weights: Path = WEIGHTS_FILE, progress: Progress | None = None) -> None:
    """Write the demo checkpoint; the same weights give the same bytes.

    The folder appears whole or not at all. Raises FileExistsError where it is there already, CheckpointError where
    the disk has no room for it.
    """
    total = 2 * _TABLE_BYTES + weights.stat().st_size
    with whole_folder(folder, total) as partial:
        tensors = load_file(weights)
        tensors |= _tables(tensors)
        save_file(tensors, partial / SINGLE_FILE, {"format": "pt"})
        write_documents(partial, {**trained_document(DEMO_NAME), WEIGHTS_KEY: weights_digest(weights)})
    if progress is not None:
        progress(total, total)


def _tables(shipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return embedding and output, [VOCAB_SIZE, hidden] bfloat16 each; takes what they are made of out of `shipped`."""
    spellings = Spellings(TRAINED_SHAPE.hidden_size)
    everything = torch.arange(VOCAB_SIZE)
    known = shipped.pop(KNOWN).long()
    embedding = spellings.rows(everything, shipped.pop(TRAIT_VECTORS).float()).bfloat16()
    embedding[known] = shipped.pop(KNOWN_ROWS)
    output = spellings.output_rows(everything, shipped.pop(TRAIT_OUTPUT_VECTORS).float()).bfloat16()
    output[known] = shipped.pop(KNOWN_OUTPUT_ROWS)
    return {"model.embed_tokens.weight": embedding, "lm_head.weight": scaled(output)}
