"""A model of any shape with random weights, made where it is computed: full size without a file.

Owns: the numbers. Does not know: what is measured with them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.config import BLOCK_VALUES, ModelConfig
from gptoss_backend.engine.experts import ExpertWeights
from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.mxfp4 import PackedMatrices

_UNIFORM_E2M1_STD = 2.93
_EXPONENT_BIAS = 127


class RandomWeights:
    """Draws tensors on one device, the same for the same seed."""

    def __init__(
        self, config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0, *, eight_bit: bool = False
    ) -> None:
        """eight_bit: attention's matrices and the unembedding are int8."""
        self._config = config
        self._device = device
        self._dtype = dtype
        self._eight_bit = eight_bit
        self._generator = torch.Generator(device).manual_seed(seed)

    def model(self) -> Weights:
        """Return a whole model, its experts packed; activations stay of size 1."""
        config = self._config
        hidden, vocab = config.hidden_size, config.vocab_size
        return Weights(
            embedding=self._normal(vocab, hidden, std=1.0),
            layers=tuple(self._layer() for _ in range(config.num_layers)),
            norm=torch.ones(hidden, device=self._device),
            unembedding=self._matrix(vocab, hidden, std=3.0 / math.sqrt(hidden)),
        )

    def _layer(self) -> LayerWeights:
        config = self._config
        hidden = config.hidden_size
        num_query = config.num_heads * config.head_dim
        width = num_query + 2 * config.num_kv_heads * config.head_dim
        ones = torch.ones(hidden, device=self._device)
        return LayerWeights(
            attention_norm=ones,
            qkv=self._matrix(width, hidden, std=hidden**-0.5),
            qkv_bias=self._normal(width, std=0.02),
            output=self._matrix(hidden, num_query, std=num_query**-0.5),
            output_bias=self._normal(hidden, std=0.02),
            sinks=self._normal(config.num_heads, std=1.0).float(),
            expert_norm=ones,
            experts=self.experts(),
        )

    def experts(self) -> ExpertWeights:
        """Return the packed experts of one layer."""
        config = self._config
        count, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size
        return ExpertWeights(
            router=self._normal(count, hidden, std=hidden**-0.5),
            router_bias=self._normal(count, std=0.02),
            gate_up=self._packed(count, 2 * inner, hidden),
            gate_up_bias=self._normal(count, 2 * inner, std=0.02),
            down=self._packed(count, hidden, inner),
            down_bias=self._normal(count, hidden, std=0.02),
        )

    def _matrix(self, num_outputs: int, num_inputs: int, std: float) -> Matrix:
        values = self._normal(num_outputs, num_inputs, std=std)
        return EightBitMatrix.of(values, self._dtype, self._device) if self._eight_bit else values

    def _normal(self, *size: int, std: float) -> Tensor:
        values = torch.empty(size, dtype=self._dtype, device=self._device)
        return values.normal_(0.0, std, generator=self._generator)

    def _packed(self, count: int, rows: int, columns: int) -> PackedMatrices:
        num_blocks = columns // BLOCK_VALUES
        exponent = round(math.log2(columns**-0.5 / _UNIFORM_E2M1_STD))
        blocks = torch.empty(count, rows, num_blocks, BLOCK_VALUES // 2, dtype=torch.uint8, device=self._device)
        blocks.random_(0, 256, generator=self._generator)
        scales = torch.full(
            (count, rows, num_blocks), exponent + _EXPONENT_BIAS, dtype=torch.uint8, device=self._device
        )
        return PackedMatrices(blocks, scales, self._dtype, is_repacked=True)
