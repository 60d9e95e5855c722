"""Matmuls of few rows, of which a decode step is made: the memory limits them, so a matrix is read once, widely.

Owns: `multiply_few`. The torch reference is `TorchOperators.linear` in `engine/operators.py`. Of a matrix in eight bits
the whole numbers are multiplied, which every dtype here holds exactly, and the sum is scaled.

A program computes some outputs from whole rows of the matrix, and its warps divide the inputs: so even a matrix of few
outputs keeps every multiprocessor busy, nothing is added atomically, and a sum's order depends on neither the batch nor
the moment. One row is a vector that meets the matrix in registers; more are a tile for the tensor cores, to which the
matrix comes by copies under way while the last ones are multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.interpreter import IS_INTERPRETED

MOST_ROWS = 16
"""Beyond, torch's matmul reads no more than this does, and computes better."""
MOST_VECTORS = 1
"""On an H100 four as vectors take 1.5 to 1.9 times as long as eight as a tile."""
_LOAD_BYTES = 16
# an H100's
_NUM_MULTIPROCESSORS = 132


@dataclass(frozen=True, slots=True)
class VectorTile:
    """What a program reads at a time where rows are vectors."""

    outputs: int = 4
    lanes: int = 128
    """Of all warps: each loads 16 bytes of each output's row, 8 where it has eight bits"""
    num_warps: int = 4

    @staticmethod
    def width(rows: Tensor) -> int:
        """Return how many values a lane reads of each row at a time, and of a matrix in eight bits as many."""
        return _LOAD_BYTES // rows.itemsize


@dataclass(frozen=True, slots=True)
class MatrixTile:
    """What a program multiplies at a time where rows are a tile."""

    outputs: int
    rows: int
    parts: int = 4
    """Of the inputs, one for each warp"""
    num_stages: int = 3

    @classmethod
    def of(cls, num_outputs: int, num_rows: int, weight_bytes: int = 2, row_bytes: int = 2) -> MatrixTile:
        """Return the largest tile with one for each multiprocessor: the rows are read anew for each."""
        sizes = (size for size in (64, 32) if num_outputs >= size * _NUM_MULTIPROCESSORS)
        # where weights are smaller, more copies are under way; of float32 as many outgrow the memory of small cards
        num_stages = 1 if row_bytes > 2 else 3 if weight_bytes > 1 else 4
        return cls(next(sizes, 16), max(8, triton.next_power_of_2(num_rows)), num_stages=num_stages)

    @property
    def inputs(self) -> int:
        """Of a part: 2,048 weights a warp at a time."""
        return 2048 // self.outputs


VECTOR_TILE = VectorTile()


def multiply_few(
    rows: Tensor, weight: Matrix, bias: Tensor | None, *, dtype: torch.dtype | None = None, out: Tensor | None = None
) -> Tensor:
    """Return rows @ weight.T + bias, [num_rows, num_outputs], summed in float32.

    rows: [num_rows, num_inputs], 1 to MOST_ROWS. weight: [num_outputs, num_inputs]. bias: [num_outputs].
    dtype: of the result, None: that of `rows`. out: where it goes, of any float dtype.
    """
    assert 0 < len(rows) <= MOST_ROWS  # noqa: S101 (the caller has others for torch)
    weights, scales = (weight.values, weight.scales) if isinstance(weight, EightBitMatrix) else (weight, None)
    assert weights.is_contiguous()  # noqa: S101 (made so on loading)
    if out is None:
        out = torch.empty(len(rows), len(weight), dtype=dtype or rows.dtype, device=rows.device)
    assert out.is_contiguous()  # noqa: S101 (whole rows of a memory for more)
    multiply = _multiply_vectors if len(rows) <= MOST_VECTORS else _multiply_tile
    multiply(rows.contiguous(), weights, scales, bias, out)
    return out


def _multiply_vectors(rows: Tensor, weights: Tensor, scales: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
    num_outputs, num_inputs = weights.shape
    tile = VECTOR_TILE
    _skinny_vectors[(triton.cdiv(num_outputs, tile.outputs),)](
        rows,
        weights,
        weights if scales is None else scales,
        weights if bias is None else bias,
        out,
        num_outputs,
        NUM_INPUTS=num_inputs,
        NUM_ROWS=len(rows),
        HAS_SCALES=scales is not None,
        HAS_BIAS=bias is not None,
        OUTPUTS=tile.outputs,
        LANES=tile.lanes,
        WIDTH=tile.width(rows),
        num_warps=tile.num_warps,
        **launch_options(),
    )


def _multiply_tile(rows: Tensor, weights: Tensor, scales: Tensor | None, bias: Tensor | None, out: Tensor) -> None:
    num_outputs, num_inputs = weights.shape
    tile = MatrixTile.of(num_outputs, len(rows), weights.itemsize, rows.itemsize)
    _skinny_tile[(triton.cdiv(num_outputs, tile.outputs),)](
        rows,
        weights,
        weights if scales is None else scales,
        weights if bias is None else bias,
        out,
        len(rows),
        num_outputs,
        NUM_INPUTS=num_inputs,
        HAS_SCALES=scales is not None,
        HAS_BIAS=bias is not None,
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        PARTS=tile.parts,
        INPUTS=tile.inputs,
        WIDEN=IS_INTERPRETED,
        num_warps=tile.parts,
        num_stages=tile.num_stages,
        **launch_options(),
    )


@triton.jit
def _skinny_vectors(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    results: tl.tensor,
    num_outputs: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_ROWS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    outputs = tl.program_id(0).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = outputs < num_outputs
    starts = weight + outputs[:, None, None] * NUM_INPUTS
    places = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    # the memory has something to do while what comes before ends
    weights = load_weights(starts, inside, places, NUM_INPUTS)
    scale, added = load_scale_and_bias(scales + outputs, bias + outputs, inside, HAS_SCALES, HAS_BIAS)
    wait_for_inputs(DEPENDENT)
    sums = sum_vectors(rows, starts, inside, places, weights, NUM_INPUTS, NUM_ROWS)
    for row in tl.static_range(NUM_ROWS):
        total = sums[row] * scale + added
        tl.store(results + row * num_outputs + outputs, total.to(results.dtype.element_ty), mask=inside)


@triton.jit
def sum_vectors(
    rows: tl.tensor,
    starts: tl.tensor,
    inside: tl.tensor,
    places: tl.tensor,
    weights: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    NUM_ROWS: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """Return the products of some outputs' weights with each row, [OUTPUTS] float32.

    starts: where each output's weights begin, [OUTPUTS, 1, 1]. places: which inputs are read at a time, [LANES, WIDTH].
    weights: the first that were read.
    """
    OUTPUTS: tl.constexpr = starts.shape[0]
    LANES: tl.constexpr = places.shape[0]
    WIDTH: tl.constexpr = places.shape[1]
    sums = ()
    for _ in tl.static_range(NUM_ROWS):
        sums += (tl.zeros([OUTPUTS, LANES], tl.float32),)  # type: ignore[assignment]  # Triton's tuples grow
    for first in tl.static_range(0, NUM_INPUTS, LANES * WIDTH):
        place = first + places
        if first > 0:
            weights = load_weights(starts, inside, place, NUM_INPUTS)
        added = ()
        for row in tl.static_range(NUM_ROWS):
            values = tl.load(rows + row * NUM_INPUTS + place, mask=place < NUM_INPUTS, other=0).to(tl.float32)
            products = tl.sum(weights.to(tl.float32) * values[None, :, :], axis=2)
            added += (sums[row] + products,)  # type: ignore[assignment]  # Triton's tuples grow
        sums = added
    totals = ()
    for row in tl.static_range(NUM_ROWS):
        totals += (tl.sum(sums[row], axis=1),)  # type: ignore[assignment]  # Triton's tuples grow
    return totals


@triton.jit
def load_scale_and_bias(
    scales: tl.tensor, bias: tl.tensor, inside: tl.tensor, HAS_SCALES: tl.constexpr, HAS_BIAS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Return what sums are multiplied by, 1 but for an eight-bit matrix, and what is then added; float32.

    scales, bias: pointers to the outputs'. One row's are asked for before the sums, behind which nothing is under way;
    a tile's would take registers that the sums need.
    """
    scale, added = 1.0, 0.0
    if HAS_SCALES:
        scale = tl.load(scales, mask=inside, other=0)
    if HAS_BIAS:
        added = tl.load(bias, mask=inside, other=0).to(tl.float32)
    return scale, added


@triton.jit
def load_weights(starts: tl.tensor, inside: tl.tensor, places: tl.tensor, NUM_INPUTS: tl.constexpr) -> tl.tensor:
    """Return the weights of some outputs at some places, [OUTPUTS, LANES, WIDTH]."""
    within = inside[:, None, None] & (places < NUM_INPUTS)[None, :, :]
    # nobody reads them again, but all programs of a multiprocessor read the rows
    return tl.load(starts + places[None, :, :], mask=within, other=0, eviction_policy="evict_first")


@triton.jit
def _skinny_tile(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    results: tl.tensor,
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDEN: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    outputs = tl.program_id(0).to(tl.int64) * OUTPUTS + tl.arange(0, OUTPUTS)
    inside = outputs < num_outputs
    total = sum_tile(rows, weight, outputs, inside, num_rows, NUM_INPUTS, ROWS, PARTS, INPUTS, WIDEN)
    scale, added = load_scale_and_bias(
        scales + outputs[:, None], bias + outputs[:, None], inside[:, None], HAS_SCALES, HAS_BIAS
    )
    total = total * scale + added
    row = tl.arange(0, ROWS)[None, :]
    results += row * num_outputs + outputs[:, None]
    tl.store(results, total.to(results.dtype.element_ty), mask=inside[:, None] & (row < num_rows))


@triton.jit
def sum_tile(
    rows: tl.tensor,
    weight: tl.tensor,
    outputs: tl.tensor,
    inside: tl.tensor,
    num_rows: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDEN: tl.constexpr,
) -> tl.tensor:
    """Return the products of some outputs' weights with all rows, [OUTPUTS, ROWS] float32; outputs: int64."""
    dtype: tl.constexpr = tl.float32 if WIDEN else rows.dtype.element_ty
    row = tl.arange(0, ROWS)
    is_row = row < num_rows
    sums = tl.zeros([PARTS, outputs.shape[0], ROWS], tl.float32)
    for first in range(0, NUM_INPUTS, PARTS * INPUTS):
        place = first + tl.arange(0, PARTS)[:, None] * INPUTS + tl.arange(0, INPUTS)[None, :]
        place = place[:, None, :]
        known = place < NUM_INPUTS
        lines, vectors = outputs[None, :, None] * NUM_INPUTS, row[None, :, None] * NUM_INPUTS
        weights = tl.load(weight + lines + place, mask=known & inside[None, :, None], other=0)
        values = tl.load(rows + vectors + place, mask=known & is_row[None, :, None], other=0)
        # float32 rows are for tests, which want their precision
        sums = tl.dot(weights.to(dtype), tl.permute(values.to(dtype), (0, 2, 1)), sums, input_precision="ieee")
    return tl.sum(sums, axis=0)
