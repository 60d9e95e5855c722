"""The model over the C++ forward pass.

Stage 5 of a request: step. Owns: the hand-over of weights and of each step's batch to the library, the cache's memory.
Does not know: how the library computes.

bfloat16 weights and cache, experts also in MXFP4. A request's logits are the same bits whatever shares its batch.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Iterable

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.int8 import Matrix
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.native.library import (
    BatchStruct,
    InstructionSet,
    LayerSourceStruct,
    NativeUnavailableError,
    ShapeStruct,
    choose_instruction_set,
    load_library,
)
from gptoss_backend.engine.rope import RotaryEmbedding

BLOCK_SIZE = 16
"""Positions in a cache block: kBlock of attention.h."""
_MOST_SCALE = 127 + 63
"""2^63, from 2^-63 on: quotients of two scales are within the range of a float's exponent."""


def check_native(config: ModelConfig, block_size: int) -> InstructionSet:
    """Return what the library runs this model with here. Raises NativeUnavailableError, saying why, where it cannot."""
    if block_size != BLOCK_SIZE:
        raise NativeUnavailableError(f"engine.block_size is {block_size}, the kernels take {BLOCK_SIZE}")
    if config.head_dim % 16 or config.hidden_size % 2 or config.intermediate_size % 2:
        raise NativeUnavailableError("the model's sizes do not fit the kernels' vectors")
    return choose_instruction_set()


class NativeModel(LocalModel):
    """A GPT-OSS whose steps run in C++. Used by the engine's thread only."""

    def __init__(
        self, config: ModelConfig, shards: Iterable[Weights], num_threads: int, instruction_set: InstructionSet
    ) -> None:
        """Pack a model's weights, which come in shards that follow each other; each is let go of before the next.

        shards: on the CPU, bfloat16, experts also in MXFP4. The embedding is kept as it is, the rest copied in the
        library's layout.
        """
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = torch.bfloat16
        self._library = load_library(instruction_set)
        rope = RotaryEmbedding(config.rope, config.head_dim, self.device)
        self._handle = ctypes.c_void_p(
            self._library.gptoss_create(
                ctypes.byref(_shape(config, rope.amplitude)), rope.inverse_frequencies.data_ptr(), num_threads
            )
        )
        self._embedding: Tensor | None = None
        self._cache_memory: list[Tensor] = []
        self.has_packed_experts = False
        sliding = set(config.sliding_layers)
        num_layers = 0
        for shard in shards:
            for layer in shard.layers:
                self._add_layer(layer, is_sliding=num_layers in sliding)
                num_layers += 1
            self._set_ends(shard)
            del layer, shard  # or they would live on while the next is read

    def _add_layer(self, layer: LayerWeights, *, is_sliding: bool) -> None:
        self.has_packed_experts = isinstance(layer.experts.gate_up, PackedMatrices)
        source, kept = _layer_source(layer, is_sliding=is_sliding)
        self._library.gptoss_add_layer(self._handle, ctypes.byref(source))
        del kept

    def _set_ends(self, shard: Weights) -> None:
        """Take what a shard has of that which comes before the layers and after them."""
        if shard.embedding is not None:
            self._embedding = shard.embedding.contiguous()
            self._library.gptoss_set_embedding(self._handle, self._embedding.data_ptr())
        if shard.norm is not None and shard.unembedding is not None:
            unembedding = _in_full(shard.unembedding).contiguous()
            self._library.gptoss_set_unembedding(self._handle, shard.norm.data_ptr(), unembedding.data_ptr())

    def __del__(self) -> None:
        """Free the packed weights and end the library's threads."""
        if hasattr(self, "_handle"):
            self._library.gptoss_destroy(self._handle)

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, in place of any taken before; the null block is zero."""
        self._cache_memory.clear()
        sliding = set(self.config.sliding_layers)
        for index in range(self.config.num_layers):
            num_blocks = plan.num_sliding_blocks if index in sliding else plan.num_full_blocks
            shape = (2, num_blocks, self.config.num_kv_heads, BLOCK_SIZE * self.config.head_dim)
            memory = torch.empty(shape, dtype=self.dtype)
            memory[:, 0].zero_()
            self._cache_memory.append(memory)
            self._library.gptoss_set_cache(self._handle, index, memory[0].data_ptr(), memory[1].data_ptr())

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Compute a step, as `LocalModel.forward` says."""
        integers = [array("i", ids) for ids in (batch.token_ids, batch.positions, batch.rows, batch.samples)]
        num_samples = len(batch.samples)
        best = array("i", [0]) * num_samples
        logits = torch.empty(num_samples, self.config.vocab_size) if with_logits else None
        struct = BatchStruct(
            *(values.buffer_info()[0] for values in integers),
            tables.full.table.data_ptr(),
            tables.sliding.table.data_ptr(),
            len(batch.token_ids),
            num_samples,
            tables.full.table.shape[1],
        )
        self._library.gptoss_forward(
            self._handle,
            ctypes.byref(struct),
            None if logits is None else logits.data_ptr(),
            best.buffer_info()[0],
        )
        return StepOutput(best.tolist(), logits)


def _shape(config: ModelConfig, rope_amplitude: float) -> ShapeStruct:
    return ShapeStruct(
        config.vocab_size,
        config.hidden_size,
        config.intermediate_size,
        config.num_layers,
        config.num_heads,
        config.num_kv_heads,
        config.head_dim,
        config.num_experts,
        config.num_experts_per_token,
        config.sliding_window,
        config.rms_norm_eps,
        config.swiglu_alpha,
        config.swiglu_limit,
        rope_amplitude,
    )


def _layer_source(layer: LayerWeights, *, is_sliding: bool) -> tuple[LayerSourceStruct, list[Tensor | None]]:
    """Return the struct and the tensors that must live while it is read."""
    experts = layer.experts
    tensors = [
        *(layer.attention_norm, _in_full(layer.qkv), layer.qkv_bias),
        *(_in_full(layer.output), layer.output_bias, layer.sinks),
        *(layer.expert_norm, experts.router, experts.router_bias),
        *(*_matrices(experts.gate_up), experts.gate_up_bias, *_matrices(experts.down), experts.down_bias),
    ]
    kept = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    return LayerSourceStruct(*(None if t is None else t.data_ptr() for t in kept), int(is_sliding)), kept


def _in_full(matrix: Matrix) -> Tensor:
    assert isinstance(matrix, Tensor)  # noqa: S101 (loading refuses eight bits for these kernels)
    return matrix


def _matrices(matrices: Tensor | PackedMatrices) -> tuple[Tensor, Tensor | None]:
    """Return what the library reads: values, or blocks and their scales.

    Raises CheckpointError where a scale leaves bfloat16's range: the file is damaged.
    """
    if isinstance(matrices, Tensor):
        return matrices, None
    largest = int(matrices.scales.max())
    if largest > _MOST_SCALE:
        raise CheckpointError(f"the checkpoint's experts have a scale of 2^{largest - 127}: their MXFP4 is damaged")
    return matrices.blocks, matrices.scales
