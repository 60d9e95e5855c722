"""Tensors out of a checkpoint's files, by name and in part.

Stage: start-up. Owns: the check that a folder is whole and holds no more, which file is open, in what form a tensor is
handed over. Does not know: which tensors a model has (checkpoint.py), how weights are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptoss_backend.engine.checkpoint_files import EMBEDDING, UNEMBEDDING, any_packed, weight_map
from gptoss_backend.engine.config import BLOCK_VALUES
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.shard import Shard

_PACKED_ENDINGS = ("_blocks", "_scales")
# as safetensors names them
_PACKED_DTYPES = ("U8",)
_DTYPES = ("BF16", "F16", "F32")
# names that transformers gives to what it computes with
_OURS = ("model.", "lm_head.")
# saved by old versions, follows from config.json
_RECOMPUTED = ".rotary_emb.inv_freq"


class CheckpointReader:
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
        is_tied = self.shard.whole.ties_embeddings and UNEMBEDDING not in self._files
        return EMBEDDING if is_tied else UNEMBEDDING

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
                self._check_tensor(name, expected[name])

    def _check_tensor(self, name: str, expected: tuple[int, ...]) -> None:
        shape, dtype = self._look_at(name)
        if shape != expected:
            raise CheckpointError(f"{self._folder}: {name} has shape {list(shape)}, config.json asks {list(expected)}")
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


def open_shard(path: Path) -> safe_open:
    """Open a safetensors file. Raises CheckpointError where it is missing or not whole."""
    if not path.exists():
        raise CheckpointError(f"the checkpoint shard {path} is missing")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"the checkpoint shard {path} is corrupt or cut short: {error}") from error


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
