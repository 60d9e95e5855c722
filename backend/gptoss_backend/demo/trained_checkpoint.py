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
from gptoss_backend.demo.rows import VOCAB_SIZE, Spellings, unembedding
from gptoss_backend.demo.shape import TRAINED_SHAPE, trained_document
from gptoss_backend.engine.checkpoint import SINGLE_FILE

KNOWN: Final = "demo.known"
"""[num_known] ids of the tokens with a row of their own"""
KNOWN_ROWS: Final = "demo.known_rows"
"""[num_known, hidden]"""
TRAIT_VECTORS: Final = "demo.trait_vectors"
"""[number of traits, hidden]"""
_TABLE_BYTES: Final = math.prod((VOCAB_SIZE, TRAINED_SHAPE.hidden_size, 2))


def write_trained_checkpoint(folder: Path, *, weights: Path = WEIGHTS_FILE, progress: Progress | None = None) -> None:
    """Write the demo checkpoint; the same weights give the same bytes.

    The folder appears whole or not at all. Raises FileExistsError where it is there already, CheckpointError where
    the disk has no room for it.
    """
    total = 2 * _TABLE_BYTES + weights.stat().st_size
    with whole_folder(folder, total) as partial:
        tensors = load_file(weights)
        table = _table(tensors.pop(KNOWN), tensors.pop(KNOWN_ROWS), tensors.pop(TRAIT_VECTORS))
        tensors |= {"model.embed_tokens.weight": table, "lm_head.weight": unembedding(table)}
        save_file(tensors, partial / SINGLE_FILE, {"format": "pt"})
        write_documents(partial, {**trained_document(DEMO_NAME), WEIGHTS_KEY: weights_digest(weights)})
    if progress is not None:
        progress(total, total)


def _table(known: Tensor, known_rows: Tensor, trait_vectors: Tensor) -> Tensor:
    """Return the embedding, [VOCAB_SIZE, hidden] bfloat16."""
    spellings = Spellings(TRAINED_SHAPE.hidden_size)
    table = spellings.rows(torch.arange(VOCAB_SIZE), trait_vectors.float()).bfloat16()
    table[known.long()] = known_rows
    return table
