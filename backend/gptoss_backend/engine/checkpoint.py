"""Reading a Hugging Face GPT-OSS checkpoint folder: bf16 experts, or MXFP4 as published.

Stage: start-up. Owns: tensor names on disk, the check that a folder is whole and holds no more, the conversion to the
engine's layout. Does not know: how weights are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_backend.engine.checkpoint_files import EMBEDDING, any_packed, weight_map
from gptoss_backend.engine.config import BLOCK_VALUES, ModelConfig
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.experts import ExpertWeights
from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.shard import Shard
from gptoss_backend.hub import checkpoint_folder, is_repository

_UNEMBEDDING = "lm_head.weight"
_PACKED_ENDINGS = ("_blocks", "_scales")
# as safetensors names them
_PACKED_DTYPES = ("U8",)
_DTYPES = ("BF16", "F16", "F32")
# names that transformers gives to what it computes with
_OURS = ("model.", "lm_head.")
# saved by old versions, follows from config.json
_RECOMPUTED = ".rotary_emb.inv_freq"
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
    reader = _Reader(folder, shard, dtype, device, packed=packed, eight_bit=eight_bit)
    config = shard.whole
    tensors = dict(_tensors(config, reader.has_packed_experts))
    if reader.unembedding == EMBEDDING:
        del tensors[_UNEMBEDDING]
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


def _read_layer(reader: _Reader, index: int) -> LayerWeights:
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


def _read_experts(reader: _Reader, prefix: str, inner: range) -> ExpertWeights:
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
    yield _UNEMBEDDING, (config.vocab_size, hidden)
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


class _Reader:
    """Reads tensors by name from the files of one folder."""

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        dtype: torch.dtype,
        device: torch.device,
        *,
        packed: bool,
        eight_bit: bool,
    ) -> None:
        self.shard = shard
        self._folder = folder
        self._dtype = dtype
        self._device = device
        self._packed = packed
        self._eight_bit = eight_bit
        self._files = file_by_tensor(folder)
        self._open: tuple[str, safe_open] | None = None

    @property
    def has_packed_experts(self) -> bool:
        """True where the experts are in MXFP4."""
        return any_packed(self._files)

    @property
    def unembedding(self) -> str:
        """The tensor that logits come of: the embedding where a model ties the two and saves one."""
        is_tied = self.shard.whole.ties_embeddings and _UNEMBEDDING not in self._files
        return EMBEDDING if is_tied else _UNEMBEDDING

    def check(self, expected: dict[str, tuple[int, ...]]) -> None:
        """Raise CheckpointError where a tensor is absent, of another shape or kind of number, or not computed here."""
        files = dict(sorted(self._files.items(), key=lambda item: item[1]))
        unknown = sorted(name for name in files.keys() - expected.keys() if not name.endswith(_RECOMPUTED))
        if missing := sorted(expected.keys() - files.keys()):
            raise CheckpointError(f"the checkpoint {self._folder} lacks {_told(missing)}{_instead(unknown)}")
        # what is passed over could be an adapter or more layers: answers would be wrong for no visible reason
        if foreign := [name for name in unknown if name.startswith(_OURS)]:
            raise CheckpointError(
                f"the checkpoint {self._folder} holds what config.json does not speak of, or is not computed here: "
                f"{_told(foreign)}{_advice(foreign)}"
            )
        for name in files:
            if name in expected:
                shape, dtype = self._look_at(name)
                if shape != expected[name]:
                    raise CheckpointError(
                        f"{self._folder}: {name} has shape {list(shape)}, config.json asks {list(expected[name])}"
                    )
                wanted = _PACKED_DTYPES if name.endswith(_PACKED_ENDINGS) else _DTYPES
                if dtype not in wanted:
                    raise CheckpointError(f"{self._folder}: {name} is of {dtype}, not of {' or '.join(wanted)}")

    def _look_at(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return a tensor's shape and its dtype, as safetensors names it."""
        try:
            tensor = self._file(name).get_slice(name)  # type: ignore[no-untyped-call]
        except SafetensorError as error:
            path = self._folder / self._files[name]
            raise CheckpointError(f"{path} lacks the tensor {name}, which the index says it holds") from error
        return tuple(tensor.get_shape()), tensor.get_dtype()

    def read(self, name: str, part: tuple[slice, ...] = (), *, at: torch.device | None = None) -> Tensor:
        """Return a part of a tensor in the compute dtype. Raises CheckpointError where a vector holds no numbers."""
        stored = self._raw(name, part)
        if stored.dim() == 1 and not stored.isfinite().all():  # looking through matrices would take too long
            raise CheckpointError(f"{self._folder}: {name} holds values that are no finite numbers")
        return stored.to(at or self._device, self._dtype)

    def read_matrix(self, parts: Sequence[tuple[str, tuple[slice, ...]]]) -> Matrix:
        """Return parts of tensors, one below the other: in the compute dtype, or rounded from what is stored."""
        if not self._eight_bit:
            read = [self.read(name, part) for name, part in parts]
            return read[0] if len(read) == 1 else torch.cat(read)
        stored = [self._raw(name, part) for name, part in parts]
        whole = stored[0] if len(stored) == 1 else torch.cat(stored)
        return EightBitMatrix.of(whole, self._dtype, self._device)

    def read_once(self, name: str) -> Tensor:
        """Return a bias, in all but the first part of a layer zeros."""
        bias = self.read(name)
        return bias if self.shard.is_first_part else torch.zeros_like(bias)

    def read_expert_matrices(
        self, name: str, rows: slice = slice(None), columns: slice = slice(None)
    ) -> Tensor | PackedMatrices:
        """Return a part of the experts' matrices [num_experts, out, in]: packed, or in the compute dtype."""
        every = slice(None)
        if not self.has_packed_experts:  # [.., in, out]
            return self.read(name, (every, columns, rows)).transpose(1, 2).contiguous()
        blocks = slice(columns.start and columns.start // BLOCK_VALUES, columns.stop and columns.stop // BLOCK_VALUES)
        matrices = PackedMatrices(
            self._raw(f"{name}_blocks", (every, rows, blocks)).to(self._device),
            self._raw(f"{name}_scales", (every, rows, blocks)).to(self._device),
            self._dtype,
        )
        if not self._packed:
            return matrices.unpack()
        return matrices.repack() if self._device.type == "cuda" else matrices

    def _raw(self, name: str, part: tuple[slice, ...]) -> Tensor:
        file = self._file(name)
        is_whole = all(side == slice(None) for side in part)
        # a whole tensor of a file is its memory map, and a part may be a view of that: kernels want what lies together
        tensor: Tensor = file.get_tensor(name) if is_whole else file.get_slice(name)[part]  # type: ignore[no-untyped-call]
        return tensor.contiguous()

    def _file(self, name: str) -> safe_open:
        file = self._files[name]
        if self._open is None or self._open[0] != file:
            self._open = (file, open_shard(self._folder / file))  # the one before is unmapped once nobody uses it
        return self._open[1]


def file_by_tensor(folder: Path) -> dict[str, str]:
    """Map each tensor to its shard, after seeing that every shard is there and whole. Raises CheckpointError."""
    files = weight_map(folder)
    for file in sorted(set(files.values())):
        open_shard(folder / file)
    return files


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the tensor {names[0]}{more}"


def _instead(names: Sequence[str]) -> str:
    """Say what a checkpoint that lacks tensors has in their place."""
    return f", but holds {names[0]}{_advice(names)}" if names else ""


def _advice(names: Sequence[str]) -> str:
    if any(name.startswith("base_model.") or "lora_" in name for name in names):
        return ": merge the adapter into the model first (PEFT's merge_and_unload) and save the whole"
    return ""


def open_shard(path: Path) -> safe_open:
    """Open a safetensors file. Raises CheckpointError where it is missing or not whole."""
    if not path.exists():
        raise CheckpointError(f"the checkpoint shard {path} is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint shard {path} is corrupt or cut short: {error}") from error
