"""The model over the C++ forward pass.

Stage 5 of a request: step. Owns: the hand-over of weights and of each step's batch to the library, the cache's memory.
Does not know: how the library computes.

bfloat16 weights and cache. A request's logits are the same bits whatever shares its batch.
"""

from __future__ import annotations

import ctypes
from array import array

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kv_cache import BlockTables, CachePlan
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.native.library import (
    BatchStruct,
    LayerSourceStruct,
    NativeUnavailableError,
    ShapeStruct,
    load_library,
)
from gptoss_backend.engine.rope import RotaryEmbedding

BLOCK_SIZE = 16
"""Positions in a cache block: as many as a vector has lanes."""


def check_native(config: ModelConfig, block_size: int) -> None:
    """Raise NativeUnavailableError, saying why, where the library cannot run this model here."""
    if block_size != BLOCK_SIZE:
        raise NativeUnavailableError(f"engine.block_size is {block_size}, the kernels take {BLOCK_SIZE}")
    if config.head_dim % 16 or config.hidden_size % 2 or config.intermediate_size % 2:
        raise NativeUnavailableError("the model's sizes do not fit the kernels' vectors")
    load_library()


class NativeModel(LocalModel):
    """A GPT-OSS whose steps run in C++. Used by the engine's thread only."""

    def __init__(self, config: ModelConfig, weights: Weights, num_threads: int) -> None:
        """weights: bfloat16 on the CPU; copied in the library's layout, so the caller may let go of them."""
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = torch.bfloat16
        self._library = load_library()
        self._weights: Weights | None = weights  # packed once the cache's memory is known
        if weights.embedding is None or weights.norm is None:
            raise ValueError("the weights are those of a shard")
        self._embedding = weights.embedding.contiguous()
        rope = RotaryEmbedding(config.rope, config.head_dim, self.device)
        shape = ShapeStruct(
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
            rope.amplitude,
        )
        self._handle = ctypes.c_void_p(
            self._library.gptoss_create(
                ctypes.byref(shape),
                rope.inverse_frequencies.data_ptr(),
                self._embedding.data_ptr(),
                weights.norm.data_ptr(),
                num_threads,
            )
        )
        self._cache_memory: list[Tensor] = []

    def __del__(self) -> None:
        """Free the packed weights and end the library's threads."""
        if hasattr(self, "_handle"):
            self._library.gptoss_destroy(self._handle)

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, and pack the weights. Called once."""
        weights, self._weights = self._weights, None
        if weights is None or weights.unembedding is None:
            raise RuntimeError("the cache is allocated already")
        sliding = set(self.config.sliding_layers)
        unembedding, layers = weights.unembedding.contiguous(), list(reversed(weights.layers))
        del weights  # what follows lets go of each layer once it is packed
        self._library.gptoss_set_unembedding(self._handle, unembedding.data_ptr())
        for index in range(len(layers)):
            num_blocks = plan.num_sliding_blocks if index in sliding else plan.num_full_blocks
            shape = (2, num_blocks, self.config.num_kv_heads, BLOCK_SIZE * self.config.head_dim)
            memory = torch.empty(shape, dtype=self.dtype)
            memory[:, 0].zero_()
            self._cache_memory.append(memory)
            source, kept = _layer_source(layers.pop(), is_sliding=index in sliding)
            self._library.gptoss_add_layer(
                self._handle, ctypes.byref(source), memory[0].data_ptr(), memory[1].data_ptr()
            )
            del kept

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


def _layer_source(layer: LayerWeights, *, is_sliding: bool) -> tuple[LayerSourceStruct, list[Tensor]]:
    """Return the struct and the tensors that must live while it is read."""
    experts = layer.experts
    tensors = [
        *(layer.attention_norm, layer.qkv, layer.qkv_bias, layer.output, layer.output_bias, layer.sinks),
        *(layer.expert_norm, experts.router, experts.router_bias),
        *(experts.gate_up, experts.gate_up_bias, experts.down, experts.down_bias),
    ]
    kept = [tensor.contiguous() for tensor in tensors]
    return LayerSourceStruct(*(tensor.data_ptr() for tensor in kept), int(is_sliding)), kept
