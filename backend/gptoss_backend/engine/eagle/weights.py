"""Reading a draft head's folder, in the layout in which EAGLE-3 heads are published.

Stage: start-up. Owns: tensor names on disk, the check that a head is whole. Does not know: how weights are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from torch import Tensor

from gptoss_backend.engine.checkpoint_reader import file_by_tensor, open_shard
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.config import HeadConfig
from gptoss_backend.engine.errors import CheckpointError

EMBEDDING: Final = "embed_tokens.weight"
TARGETS: Final = "d2t"
"""What to add to a draft token's number to get the model's."""
KNOWN: Final = "t2d"
"""Which of the model's tokens can be guessed: the same said otherwise, for training."""


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """A draft head. Norm weights are float32, the rest the compute dtype."""

    fc: Tensor
    """[hidden, 3 * hidden]"""
    fc_norm: Tensor | None
    """[3 * hidden]"""
    embedding_norm: Tensor
    feature_norm: Tensor
    qkv: Tensor
    """[(num_heads + 2 * num_kv_heads) * head_dim, 2 * hidden]"""
    output: Tensor
    """[hidden, num_heads * head_dim]"""
    mlp_norm: Tensor
    gate_up: Tensor
    """[2 * intermediate, hidden]: gates, then what they gate"""
    down: Tensor
    """[hidden, intermediate]"""
    norm: Tensor
    unembedding: Tensor
    """[draft_vocab, hidden]"""
    embedding: Tensor | None
    """[vocab, hidden]; None: the model's own"""
    targets: Tensor
    """[draft_vocab] int64: the model's number of each token that can be guessed"""


def head_tensors(config: HeadConfig) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a head must have, `d2t` aside."""
    hidden, inner, layer = config.hidden_size, config.intermediate_size, "midlayer"
    num_query, num_key = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    tensors: dict[str, tuple[int, ...]] = {
        "fc.weight": (hidden, 3 * hidden),
        f"{layer}.input_layernorm.weight": (hidden,),
        f"{layer}.hidden_norm.weight": (hidden,),
        f"{layer}.self_attn.q_proj.weight": (num_query, 2 * hidden),
        f"{layer}.self_attn.k_proj.weight": (num_key, 2 * hidden),
        f"{layer}.self_attn.v_proj.weight": (num_key, 2 * hidden),
        f"{layer}.self_attn.o_proj.weight": (hidden, num_query),
        f"{layer}.post_attention_layernorm.weight": (hidden,),
        f"{layer}.mlp.gate_proj.weight": (inner, hidden),
        f"{layer}.mlp.up_proj.weight": (inner, hidden),
        f"{layer}.mlp.down_proj.weight": (hidden, inner),
        "norm.weight": (hidden,),
        "lm_head.weight": (config.draft_vocab_size, hidden),
    }
    return tensors | ({"input_norm.weight": (3 * hidden,)} if config.norm_before_fc else {})


def check_head(folder: Path, target: ModelConfig, element_size: int) -> int:
    """Return how many bytes the head for `target` in `folder` takes, its matrices of `element_size` bytes a number.

    Raises CheckpointError, as `load_head` does, where there is none. Reads no tensor.
    """
    config = HeadConfig.from_folder(folder, target)
    reader = _Reader(folder, config)
    tensors = head_tensors(config)
    if reader.has(EMBEDDING):
        tensors[EMBEDDING] = (config.vocab_size, config.hidden_size)
    # norms are float32, whatever the rest is; the targets are int64
    sizes = (math.prod(shape) * (4 if len(shape) == 1 else element_size) for shape in tensors.values())
    return sum(sizes) + config.draft_vocab_size * 8


def load_head(
    folder: Path, target: ModelConfig, dtype: torch.dtype, device: torch.device
) -> tuple[HeadConfig, HeadWeights]:
    """Read the head for `target` in `folder`. Raises CheckpointError naming what is missing or does not fit."""
    config = HeadConfig.from_folder(folder, target)
    reader = _Reader(folder, config)

    def read(*names: str) -> Tensor:
        return torch.cat([reader.read(name) for name in names]).to(device, dtype)

    def norm(name: str) -> Tensor:
        return reader.read(name).to(device, torch.float32)

    attention, mlp = "midlayer.self_attn", "midlayer.mlp"
    return config, HeadWeights(
        fc=read("fc.weight"),
        fc_norm=norm("input_norm.weight") if config.norm_before_fc else None,
        embedding_norm=norm("midlayer.input_layernorm.weight"),
        feature_norm=norm("midlayer.hidden_norm.weight"),
        qkv=read(*(f"{attention}.{part}_proj.weight" for part in "qkv")),
        output=read(f"{attention}.o_proj.weight"),
        mlp_norm=norm("midlayer.post_attention_layernorm.weight"),
        gate_up=read(f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"),
        down=read(f"{mlp}.down_proj.weight"),
        norm=norm("norm.weight"),
        unembedding=read("lm_head.weight"),
        embedding=read(EMBEDDING) if reader.has(EMBEDDING) else None,
        targets=reader.targets().to(device),
    )


class _Reader:
    """Reads tensors by name, after seeing that all are there, fit config.json, and that there are no others."""

    def __init__(self, folder: Path, config: HeadConfig) -> None:
        self._folder = folder
        self._config = config
        files = file_by_tensor(folder)
        shards: dict[str, safe_open] = {file: open_shard(folder / file) for file in set(files.values())}
        self._shards = {name: shards[file] for name, file in files.items()}
        self._check()

    def has(self, name: str) -> bool:
        """True where the head has that tensor."""
        return name in self._shards

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file."""
        tensor: Tensor = self._shards[name].get_tensor(name)  # type: ignore[no-untyped-call]
        return tensor

    def targets(self) -> Tensor:
        """Return the model's number of each token that can be guessed, [draft_vocab] int64."""
        config = self._config
        targets = torch.arange(config.draft_vocab_size)
        if self.has(TARGETS):
            targets = targets + self.read(TARGETS).long()
        if not 0 <= int(targets.min()) <= int(targets.max()) < config.vocab_size:
            raise CheckpointError(f"the draft head {self._folder}: {TARGETS} names tokens that the model does not have")
        return targets

    def _check(self) -> None:
        config = self._config
        needed = head_tensors(config)
        if config.draft_vocab_size < config.vocab_size:
            needed[TARGETS] = (config.draft_vocab_size,)
        known = {
            EMBEDDING: (config.vocab_size, config.hidden_size),
            TARGETS: (config.draft_vocab_size,),
            KNOWN: (config.vocab_size,),
        } | needed
        if missing := sorted(needed.keys() - self._shards.keys()):
            raise CheckpointError(f"the draft head {self._folder} lacks {_listed(missing)}")
        # what is passed over could be a bias, or a second layer: the drafts would be wrong for no visible reason
        if unknown := sorted(self._shards.keys() - known.keys()):
            raise CheckpointError(f"the draft head {self._folder} has what is not computed here: {_listed(unknown)}")
        for name, shard in self._shards.items():
            shape = tuple(shard.get_slice(name).get_shape())  # type: ignore[no-untyped-call]
            if shape != known[name]:
                raise CheckpointError(
                    f"the draft head {self._folder}: {name} has shape {list(shape)}, "
                    f"config.json asks {list(known[name])}"
                )


def _listed(names: list[str]) -> str:
    return ", ".join(names)
