"""A first guess of some heads' weights: look up what followed the same word before, and copy it.

Owns: that guess. Does not know: the rest of the model; training is free to change every number of it.

Two heads of the first layer look at the token before (by their biases alone, which the rotation turns into a preference
for a distance). Two heads of the second layer then find a place whose token before is the current token, and copy what
stands there: an induction head (https://arxiv.org/abs/2209.11895). From random weights, training had not found it after
2 million tokens.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from gptoss_backend.demo.rows import said
from gptoss_backend.demo.training.model import TrainedLayer, TrainedModel
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.rope import RotaryEmbedding

_LOOK_BACK: Final = 4.0
"""What each quick pair of dimensions adds to the score of the token before."""
_NUM_QUICK: Final = 8
_FIRST_STEADY: Final = 12
"""The pair of dimensions from which on the rotation is slow: over a few hundred tokens it leaves a match a match."""
_MATCH: Final = 1.5
_COPY: Final = 2.0


@torch.no_grad()
def guess_induction(model: TrainedModel) -> None:
    """Set the weights of one head in each group of the first two layers, in place."""
    config = model.config
    bases = [torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size)).Q for _ in range(3)]
    for group in range(config.num_kv_heads):
        rows = slice(group * config.head_dim, (group + 1) * config.head_dim)
        read, moved, copied = (basis[rows] for basis in bases)
        first, second = model.layers[0], model.layers[1]
        assert isinstance(first, TrainedLayer)  # noqa: S101 (a ModuleList's items have no type)
        assert isinstance(second, TrainedLayer)  # noqa: S101
        _look_back(first, group)
        _move(first, group, read, moved)
        _match(second, group, read, moved)
        _move(second, group, copied, said(copied) * _COPY)


def _look_back(layer: TrainedLayer, group: int) -> None:
    query, key, _ = _places(layer.config, group)
    rope = RotaryEmbedding(layer.config.rope, layer.config.head_dim, torch.device("cpu"))
    ahead = torch.zeros(1, 1, layer.config.head_dim)
    ahead[..., :_NUM_QUICK] = _LOOK_BACK**0.5 * layer.config.head_dim**0.25
    cos, sin = rope.angles(torch.tensor([-1.0]), torch.float32)
    for place, bias in ((query, RotaryEmbedding.rotate(ahead, cos, sin)), (key, ahead)):
        layer.qkv[place] *= 0.1
        layer.qkv_bias[place] = bias.flatten()


def _match(layer: TrainedLayer, group: int, read: Tensor, moved: Tensor) -> None:
    query, key, _ = _places(layer.config, group)
    half = layer.config.head_dim // 2
    is_steady = (torch.arange(layer.config.head_dim) % half >= _FIRST_STEADY).float()[:, None]
    layer.qkv[query] = read * is_steady * _MATCH
    layer.qkv[key] = moved * is_steady * _MATCH


def _move(layer: TrainedLayer, group: int, read: Tensor, written: Tensor) -> None:
    """Let the group's first head write what it reads at the place it looks at."""
    query, _, value = _places(layer.config, group)
    layer.qkv[value] = read
    layer.output[:, query] = written.T


def _places(config: ModelConfig, group: int) -> tuple[slice, slice, slice]:
    """Return the rows of qkv: the query of the group's first head, the group's key and value."""
    heads_per_group = config.num_heads // config.num_kv_heads
    starts = (
        group * heads_per_group,
        config.num_heads + group,
        config.num_heads + config.num_kv_heads + group,
    )
    query, key, value = (slice(s * config.head_dim, (s + 1) * config.head_dim) for s in starts)
    return query, key, value
