"""A shard's weights made a model that computes on their device.

Stage: start-up. Owns: whether steps are recorded and replayed. Does not know: what a step computes.
"""

from __future__ import annotations

import torch

from gptoss_backend.engine.checkpoint import Weights
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.operators import has_kernels
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import Group, Links, TorchModel


def make_model(
    shard: Shard,
    weights: Weights,
    *,
    cuda_graphs: bool,
    dependent_launch: bool = False,
    cache_dtype: torch.dtype | None = None,
    group: Group | None = None,
    links: Links | None = None,
) -> TorchModel:
    """Return a model, or a shard of one, on its weights' device; one that replays its steps where it can.

    dependent_launch: see `GraphedModel`. cache_dtype, group, links: see `TorchModel`.
    """
    if not (cuda_graphs and can_replay(weights)):
        return TorchModel(shard, weights, group, links=links, cache_dtype=cache_dtype)
    # Triton-language comes with torch's CUDA build; where nothing else is computed, nobody needs it
    from gptoss_backend.engine.kernels.graphed_model import GraphedModel

    return GraphedModel(
        shard, weights, group=group, links=links, cache_dtype=cache_dtype, dependent_launch=dependent_launch
    )


def can_replay(weights: Weights) -> bool:
    """Say whether steps with such weights can be recorded on their device: plain torch's experts wait for the host."""
    layer = weights.layers[0]
    is_packed = isinstance(layer.experts.gate_up, PackedMatrices)
    return is_packed and has_kernels(layer.qkv_bias.device, layer.qkv_bias.dtype)
