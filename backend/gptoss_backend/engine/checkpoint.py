"""Reading a Hugging Face GPT-OSS checkpoint folder: bf16 experts, or MXFP4 as published.

Stage: start-up. Owns: which tensors a checkpoint has, and what becomes of each in the engine's layout.
Does not know: files (checkpoint_reader.py), how weights are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptoss_backend.engine.checkpoint_files import EMBEDDING, UNEMBEDDING
from gptoss_backend.engine.checkpoint_reader import CheckpointReader
from gptoss_backend.engine.config import BLOCK_VALUES, ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.experts import ExpertWeights
from gptoss_backend.engine.int8 import Matrix
from gptoss_backend.engine.shard import Shard
from gptoss_backend.hub import checkpoint_folder, is_repository

Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer, or a shard's part of it. Norm weights and sinks are float32, the rest the compute dtype.

    Biases that are added to the residual stream are zero but in the first part of a layer.
    """

    attention_norm: Tensor
    qkv: Matrix
    """[(num_heads + 2 * num_kv_heads) * head_dim, hidden]: queries, keys, values"""
    qkv_bias: Tensor
    output: Matrix
    """[hidden, num_heads * head_dim]"""
    output_bias: Tensor
    sinks: Tensor
    """[num_heads]"""
    expert_norm: Tensor
    experts: ExpertWeights


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model, or a shard of it."""

    embedding: Tensor | None
    """[vocab, hidden], on the host where parts share the layers; None after the first layer and in all parts but one"""
    layers: tuple[LayerWeights, ...]
    norm: Tensor | None
    unembedding: Matrix | None
    """[vocab, hidden], the shard's part; both None before the last layer"""


def find_checkpoint(name: str) -> Path:
    """Return the folder that `name` means: a path, or a repository in the local Hugging Face cache.

    Never downloads. Raises CheckpointError saying what was looked for.
    """
    folder = checkpoint_folder(name)
    if folder is not None:
        return folder
    if is_repository(name):
        raise CheckpointError(
            f"the checkpoint {name} is neither a folder nor whole in the local Hugging Face cache; "
            f"fetch it with: gptoss pull {name}"
        )
    raise CheckpointError(f"the checkpoint folder {name} does not exist")


def load_weights(
    folder: Path,
    shard: Shard,
    dtype: torch.dtype,
    device: torch.device,
    *,
    packed: bool = False,
    eight_bit: bool = False,
    progress: Progress | None = None,
) -> Weights:
    """Read a shard's weights of `folder` to `device`, one tensor at a time, and no other part of the files.

    packed: experts in MXFP4 stay so. eight_bit: attention's matrices and the unembedding are rounded to int8.
    Raises CheckpointError naming the file or tensor at fault, before much is read.
    """
    reader = CheckpointReader(folder, shard, dtype, device, packed=packed, eight_bit=eight_bit)
    config = shard.whole
    tensors = dict(_tensors(config, reader.has_packed_experts))
    if reader.unembedding == EMBEDDING:
        del tensors[UNEMBEDDING]
    reader.check(tensors)
    layers = []
    for index in shard.layers:
        layers.append(_read_layer(reader, index))
        if progress is not None:
            progress(len(layers), len(shard.layers))
    embedding = norm = unembedding = None
    if shard.is_first and shard.num_parts == 1:
        embedding = reader.read(EMBEDDING)
    elif shard.is_first and shard.is_first_part:
        # each part would hold the whole table to look up a row a token: the first one has it, in the host's memory
        embedding = reader.read(EMBEDDING, at=torch.device("cpu"))
        embedding = embedding.pin_memory() if device.type == "cuda" else embedding
    if shard.is_last:
        norm = reader.read("model.norm.weight").float()
        unembedding = reader.read_matrix([(reader.unembedding, (_slice(shard.vocab),))])
    return Weights(embedding, tuple(layers), norm, unembedding)


def _read_layer(reader: CheckpointReader, index: int) -> LayerWeights:
    shard = reader.shard
    head_dim = shard.whole.head_dim
    queries, keys = _slice(shard.heads, head_dim), _slice(shard.kv_heads, head_dim)
    parts = {"q": queries, "k": keys, "v": keys}
    prefix, attention = f"model.layers.{index}", f"model.layers.{index}.self_attn"
    return LayerWeights(
        attention_norm=reader.read(f"{prefix}.input_layernorm.weight").float(),
        qkv=reader.read_matrix([(f"{attention}.{name}_proj.weight", (rows,)) for name, rows in parts.items()]),
        qkv_bias=torch.cat([reader.read(f"{attention}.{name}_proj.bias", (rows,)) for name, rows in parts.items()]),
        output=reader.read_matrix([(f"{attention}.o_proj.weight", (slice(None), queries))]),
        output_bias=reader.read_once(f"{attention}.o_proj.bias"),
        sinks=reader.read(f"{attention}.sinks", (_slice(shard.heads),)).float(),
        expert_norm=reader.read(f"{prefix}.post_attention_layernorm.weight").float(),
        experts=_read_experts(reader, f"{prefix}.mlp", shard.inner(index)),
    )


def _read_experts(reader: CheckpointReader, prefix: str, inner: range) -> ExpertWeights:
    every = slice(None)
    gate_up, down = f"{prefix}.experts.gate_up_proj", f"{prefix}.experts.down_proj"
    return ExpertWeights(
        router=reader.read(f"{prefix}.router.weight"),
        router_bias=reader.read(f"{prefix}.router.bias"),
        gate_up=reader.read_expert_matrices(gate_up, rows=_slice(inner, 2)),
        gate_up_bias=reader.read(f"{gate_up}_bias", (every, _slice(inner, 2))),
        down=reader.read_expert_matrices(down, columns=_slice(inner)),
        down_bias=reader.read_once(f"{down}_bias"),
    )


def _slice(numbers: range, unit: int = 1) -> slice:
    return slice(numbers.start * unit, numbers.stop * unit)


def _tensors(config: ModelConfig, has_packed_experts: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the name and shape of every tensor of a checkpoint."""
    hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_experts
    num_query, num_key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    yield EMBEDDING, (config.vocab_size, hidden)
    yield "model.norm.weight", (hidden,)
    yield UNEMBEDDING, (config.vocab_size, hidden)
    for layer in (f"model.layers.{index}" for index in range(config.num_layers)):
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
        for name, width in (("q", num_query), ("k", num_key), ("v", num_key)):
            yield f"{layer}.self_attn.{name}_proj.weight", (width, hidden)
            yield f"{layer}.self_attn.{name}_proj.bias", (width,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, num_query)
        yield f"{layer}.self_attn.o_proj.bias", (hidden,)
        yield f"{layer}.self_attn.sinks", (config.num_heads,)
        yield f"{layer}.mlp.router.weight", (count, hidden)
        yield f"{layer}.mlp.router.bias", (count,)
        for name, rows, columns in (("gate_up_proj", 2 * inner, hidden), ("down_proj", hidden, inner)):
            yield f"{layer}.mlp.experts.{name}_bias", (count, rows)
            if has_packed_experts:
                num_blocks = columns // BLOCK_VALUES
                yield f"{layer}.mlp.experts.{name}_blocks", (count, rows, num_blocks, BLOCK_VALUES // 2)
                yield f"{layer}.mlp.experts.{name}_scales", (count, rows, num_blocks)
            else:  # transformers multiplies rows by matrices
                yield f"{layer}.mlp.experts.{name}", (count, columns, rows)
