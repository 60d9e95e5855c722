"""Matrices in eight bits: whole numbers from -127 to 127, and what one of them is worth in each row.

Owns: the rounding, and the torch reference that multiplies by such a matrix on any device. Does not know: which of a
model's matrices are so. The numbers are not those of the checkpoint any more: whoever asks for it gets other logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST = 127
# of a matrix unpacked at a time: 47 MB at GPT-OSS's width in two bytes, about an H100's second cache
_TILE_ROWS = 8192


@dataclass(frozen=True, slots=True)
class EightBitMatrix:
    """A matrix [num_outputs, num_inputs], symmetric around zero."""

    values: Tensor
    """[num_outputs, num_inputs] int8"""
    scales: Tensor
    """[num_outputs] float32"""
    dtype: torch.dtype
    """Of what `unpack` gives."""

    @classmethod
    def of(cls, matrix: Tensor, dtype: torch.dtype, device: torch.device) -> EightBitMatrix:
        """Round a matrix of any float dtype to `device`, some rows at a time: no second whole copy is ever there."""
        values = torch.empty(matrix.shape, dtype=torch.int8, device=device)
        scales = torch.empty(len(matrix), dtype=torch.float32, device=device)
        for span in _spans(len(matrix)):
            part = matrix[span].to(device, torch.float32)
            # a row of zeros has any scale
            scales[span] = part.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny * _LARGEST) / _LARGEST
            values[span] = (part / scales[span, None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8)
        return cls(values, scales, dtype)

    def __len__(self) -> int:
        """Return the number of outputs."""
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self.values.nbytes + self.scales.nbytes

    def unpack(self, span: slice = slice(None)) -> Tensor:
        """Return some rows in `dtype`, each number rounded once."""
        values = self.values[span]
        unpacked = torch.empty(values.shape, dtype=self.dtype, device=values.device)
        return torch.mul(values, self.scales[span, None], out=unpacked)

    def multiply(self, rows: Tensor, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """Return rows @ matrix.T + bias in rows' dtype, in `out` where there is one; bias: not with `out`.

        A part of the matrix is unpacked at a time. rows: [num_rows, num_inputs] of `dtype`.
        """
        spans = list(_spans(len(self)))
        if len(spans) == 1 and out is None:
            return F.linear(rows, self.unpack(), bias)
        result = rows.new_empty(len(rows), len(self)) if out is None else out
        for span in spans:
            torch.mm(rows, self.unpack(span).t(), out=result[:, span])
        return result if bias is None else result.add_(bias)


Matrix = Tensor | EightBitMatrix


def _spans(num_rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _TILE_ROWS, num_rows)) for start in range(0, num_rows, _TILE_ROWS))
