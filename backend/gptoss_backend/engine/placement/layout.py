"""How a model is divided over devices.

Owns: the modes, the shards of each. Does not know: how much memory there is, processes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final, Literal

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.shard import Shard

SpreadMode = Literal["pipeline", "tensor"]
PIPELINE: Final = "pipeline"
TENSOR: Final = "tensor"


def divide(config: ModelConfig, mode: SpreadMode, num_devices: int) -> tuple[Shard, ...]:
    """Return the shard of each device, in the order of their ranks.

    pipeline: consecutive layers; tensor: a part of every layer. Raises EngineError where that cannot be.
    """
    if mode == TENSOR:
        layers = range(config.num_layers)
        return tuple(Shard(config, layers, part, num_devices) for part in range(num_devices))
    if num_devices > config.num_layers:
        raise EngineError(f"a model of {config.num_layers} layers cannot be divided over {num_devices} devices")
    ends = [0]
    for count in _layers_by_stage(config, num_devices):
        ends.append(ends[-1] + count)
    return tuple(Shard(config, range(start, end)) for start, end in pairwise(ends))


def _layers_by_stage(config: ModelConfig, num_stages: int) -> list[int]:
    """Return how many layers each stage has, such that the slowest is as quick as can be.

    The last stage computes the logits as well. A step costs what it reads: all experts, since a pipeline pays with many
    sequences at once, and of the embedding a few rows.
    """
    if num_stages == 1:
        return [config.num_layers]
    layer = _values_read_in_a_layer(config)
    unembedding = config.vocab_size * config.hidden_size

    def slowest(last: int) -> int:
        return max(-(-(config.num_layers - last) // (num_stages - 1)) * layer, last * layer + unembedding)

    last = min(range(1, config.num_layers - num_stages + 2), key=slowest)
    left = config.num_layers - last
    return [left * (i + 1) // (num_stages - 1) - left * i // (num_stages - 1) for i in range(num_stages - 1)] + [last]


def _values_read_in_a_layer(config: ModelConfig) -> int:
    """Return the weights that a step reads, a packed value counting as a quarter of another."""
    attention = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim * config.hidden_size
    experts = 3 * config.hidden_size * config.intermediate_size * config.num_experts
    return attention + experts // 4
