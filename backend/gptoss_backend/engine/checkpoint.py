"""Reading a Hugging Face GPT-OSS checkpoint folder: bf16 experts, or MXFP4 as published.

Stage: start-up. Owns: tensor names on disk, the check that a folder is whole, the conversion to the engine's layout.
Does not know: how weights are used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.experts import ExpertWeights
from gptoss_backend.engine.mxfp4 import unpack_mxfp4

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
Progress = Callable[[int, int], None]
"""Called with (layers done, layers in all)."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Norm weights and sinks are float32, the rest the compute dtype."""

    attention_norm: Tensor
    qkv: Tensor
    """[(num_heads + 2 * num_kv_heads) * head_dim, hidden]: queries, keys, values"""
    qkv_bias: Tensor
    output: Tensor
    """[hidden, num_heads * head_dim]"""
    output_bias: Tensor
    sinks: Tensor
    """[num_heads]"""
    expert_norm: Tensor
    experts: ExpertWeights


@dataclass(frozen=True, slots=True)
class Weights:
    """A whole model."""

    embedding: Tensor
    """[vocab, hidden]"""
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    unembedding: Tensor
    """[vocab, hidden]"""


def find_checkpoint(name: str) -> Path:
    """Return the folder that `name` means: a path, or a repository in the local Hugging Face cache.

    Never downloads. Raises CheckpointError saying what was looked for.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            return Path(snapshot_download(name, local_files_only=True, allow_patterns=["*.json", "*.safetensors"]))
        except LocalEntryNotFoundError as error:
            raise CheckpointError(
                f"the checkpoint {name} is neither a folder nor in the local Hugging Face cache; "
                f"fetch it with: hf download {name}"
            ) from error
    raise CheckpointError(f"the checkpoint folder {name} does not exist")


def load_weights(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device, progress: Progress | None = None
) -> Weights:
    """Read all weights of `folder` to `device`. Raises CheckpointError naming the file or tensor at fault."""
    reader = _Reader(folder, dtype, device)
    layers = []
    for index in range(config.num_layers):
        layers.append(_read_layer(reader, f"model.layers.{index}", config))
        if progress is not None:
            progress(index + 1, config.num_layers)
    shape = (config.vocab_size, config.hidden_size)
    return Weights(
        embedding=reader.read("model.embed_tokens.weight", shape),
        layers=tuple(layers),
        norm=reader.read("model.norm.weight", (config.hidden_size,)).float(),
        unembedding=reader.read("lm_head.weight", shape),
    )


def _read_layer(reader: _Reader, prefix: str, config: ModelConfig) -> LayerWeights:
    hidden, head_dim = config.hidden_size, config.head_dim
    widths = {
        "q": config.num_heads * head_dim,
        "k": config.num_kv_heads * head_dim,
        "v": config.num_kv_heads * head_dim,
    }
    attention = f"{prefix}.self_attn"
    return LayerWeights(
        attention_norm=reader.read(f"{prefix}.input_layernorm.weight", (hidden,)).float(),
        qkv=torch.cat([reader.read(f"{attention}.{n}_proj.weight", (w, hidden)) for n, w in widths.items()]),
        qkv_bias=torch.cat([reader.read(f"{attention}.{n}_proj.bias", (w,)) for n, w in widths.items()]),
        output=reader.read(f"{attention}.o_proj.weight", (hidden, widths["q"])),
        output_bias=reader.read(f"{attention}.o_proj.bias", (hidden,)),
        sinks=reader.read(f"{attention}.sinks", (config.num_heads,)).float(),
        expert_norm=reader.read(f"{prefix}.post_attention_layernorm.weight", (hidden,)).float(),
        experts=_read_experts(reader, f"{prefix}.mlp", config),
    )


def _read_experts(reader: _Reader, prefix: str, config: ModelConfig) -> ExpertWeights:
    hidden, inner, count = config.hidden_size, config.intermediate_size, config.num_experts
    return ExpertWeights(
        router=reader.read(f"{prefix}.router.weight", (count, hidden)),
        router_bias=reader.read(f"{prefix}.router.bias", (count,)),
        gate_up=reader.read_expert_matrix(f"{prefix}.experts.gate_up_proj", (count, 2 * inner, hidden)),
        gate_up_bias=reader.read(f"{prefix}.experts.gate_up_proj_bias", (count, 2 * inner)),
        down=reader.read_expert_matrix(f"{prefix}.experts.down_proj", (count, hidden, inner)),
        down_bias=reader.read(f"{prefix}.experts.down_proj_bias", (count, hidden)),
    )


class _Reader:
    """Reads tensors by name from the shards of one folder."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._files = _file_by_tensor(folder)
        self._open: dict[str, safe_open] = {}

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor in the compute dtype. Raises CheckpointError where it is absent or of another shape."""
        return self._checked(name, shape).to(self._device, self._dtype)

    def read_expert_matrix(self, name: str, shape: tuple[int, int, int]) -> Tensor:
        """Return the experts' matrices [num_experts, out, in], from MXFP4 or from transformers' [.., in, out]."""
        num_experts, rows, columns = shape
        if f"{name}_blocks" in self._files:
            blocks = self._checked(f"{name}_blocks", (num_experts, rows, columns // 32, 16)).to(self._device)
            scales = self._checked(f"{name}_scales", (num_experts, rows, columns // 32)).to(self._device)
            values = torch.empty(shape, dtype=self._dtype, device=self._device)
            for expert in range(num_experts):  # one at a time: unpacking passes through float32
                values[expert] = unpack_mxfp4(blocks[expert], scales[expert], self._dtype)
            return values
        return self.read(name, (num_experts, columns, rows)).transpose(1, 2).contiguous()

    def _checked(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if name not in self._files:
            raise CheckpointError(f"the checkpoint {self._folder} lacks the tensor {name}")
        tensor: Tensor = self._shard(self._files[name]).get_tensor(name)  # type: ignore[no-untyped-call]
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self._folder}: {name} has shape {list(tensor.shape)}, config.json asks {list(shape)}"
            )
        return tensor

    def _shard(self, file: str) -> safe_open:
        if file not in self._open:
            self._open[file] = _open_shard(self._folder / file)
        return self._open[file]


def _file_by_tensor(folder: Path) -> dict[str, str]:
    """Map each tensor to its shard, after seeing that every shard is there and whole."""
    index = folder / INDEX_FILE
    if not index.exists():
        shard = _open_shard(folder / SINGLE_FILE)
        return dict.fromkeys(shard.keys(), SINGLE_FILE)  # type: ignore[no-untyped-call]
    try:
        files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{index} is not a readable shard index") from error
    for file in sorted(set(files.values())):
        _open_shard(folder / file)
    return files


def _open_shard(path: Path) -> safe_open:
    if not path.exists():
        raise CheckpointError(f"the checkpoint shard {path} is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint shard {path} is corrupt or cut short: {error}") from error
