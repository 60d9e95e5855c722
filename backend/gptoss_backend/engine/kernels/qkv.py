"""Queries, keys and values of few rows: the matmul, RoPE and the writing into the paged cache in one kernel.

Owns: which outputs a program computes, so that it has both values of each pair that is rotated together. The matmul is
that of `skinny.py`, the rotation and the writing are those of `rotary.py`; more rows take these one after the other.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.interpreter import IS_INTERPRETED
from gptoss_backend.engine.kernels.rotary import load_rotation, rotate_and_store_pairs
from gptoss_backend.engine.kernels.skinny import (
    MOST_VECTORS,
    VECTOR_TILE,
    MatrixTile,
    load_scale_and_bias,
    load_weights,
    sum_tile,
    sum_vectors,
)


def project_and_store(
    rows: Tensor,
    weight: Matrix,
    bias: Tensor | None,
    rotation: tuple[Tensor, Tensor],
    slots: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Do what `multiply_few` and `rotate_and_store` do, of whose arguments these are; returns the rotated queries.

    rows: [num_rows, num_inputs], 1 to `MOST_ROWS`. Returns [num_rows, num_heads, head_dim] in their dtype.
    """
    weights, scales = (weight.values, weight.scales) if isinstance(weight, EightBitMatrix) else (weight, None)
    assert weights.is_contiguous()  # noqa: S101 (made so on loading)
    num_kv_heads, num_slots, head_dim = keys.shape
    num_outputs, num_inputs = weights.shape
    num_heads = num_outputs // head_dim - 2 * num_kv_heads
    queries = torch.empty(len(rows), num_heads, head_dim, dtype=rows.dtype, device=rows.device)
    rows = rows.contiguous()
    matrix = weights, weights if scales is None else scales, weights if bias is None else bias
    memory = *rotation, slots, queries, keys, values
    sizes = num_heads, num_kv_heads, num_slots, num_outputs // 2
    options = {
        "NUM_INPUTS": num_inputs,
        "HAS_SCALES": scales is not None,
        "HAS_BIAS": bias is not None,
        "HALF": head_dim // 2,
        **launch_options(),
    }
    if len(rows) <= MOST_VECTORS:
        _project_vector[(triton.cdiv(num_outputs, VECTOR_TILE.outputs),)](
            rows,
            *matrix,
            *memory,
            *sizes,
            OUTPUTS=VECTOR_TILE.outputs,
            LANES=VECTOR_TILE.lanes,
            WIDTH=VECTOR_TILE.width(rows),
            num_warps=VECTOR_TILE.num_warps,
            **options,
        )
    else:
        tile = MatrixTile.of(num_outputs, len(rows), weights.itemsize, rows.itemsize)
        _project_tile[(triton.cdiv(num_outputs, tile.outputs),)](
            rows,
            *matrix,
            *memory,
            *sizes,
            len(rows),
            ROWS=tile.rows,
            OUTPUTS=tile.outputs,
            PARTS=tile.parts,
            INPUTS=tile.inputs,
            WIDEN=IS_INTERPRETED,
            num_warps=tile.parts,
            num_stages=tile.num_stages,
            **options,
        )
    return queries


@triton.jit
def _project_vector(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    slots: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    num_slots: tl.tensor,
    num_pairs: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HALF: tl.constexpr,
    OUTPUTS: tl.constexpr,
    LANES: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    pair, outputs = _outputs(OUTPUTS, HALF)
    inside = outputs < 2 * num_pairs
    starts = weight + outputs[:, None, None] * NUM_INPUTS
    places = tl.arange(0, LANES)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    # the memory has something to do while what comes before ends
    weights = load_weights(starts, inside, places, NUM_INPUTS)
    scale, added = load_scale_and_bias(scales + outputs, bias + outputs, inside, HAS_SCALES, HAS_BIAS)
    wait_for_inputs(DEPENDENT)
    token = tl.zeros([OUTPUTS // 2], tl.int64)
    head, lane, is_pair = pair // HALF, pair % HALF, pair < num_pairs
    rotation = load_rotation(cosines, sines, slots, token, head, lane, is_pair, num_heads, num_kv_heads, HALF)
    total = sum_vectors(rows, starts, inside, places, weights, NUM_INPUTS, 1)[0] * scale + added
    first, second = tl.split(tl.reshape(total.to(queries.dtype.element_ty), [OUTPUTS // 2, 2]))
    memory = (queries, keys, values)
    rotate_and_store_pairs(
        first, second, rotation, token, head, lane, is_pair, memory, num_heads, num_kv_heads, num_slots, HALF
    )


@triton.jit
def _project_tile(
    rows: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    slots: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    num_slots: tl.tensor,
    num_pairs: tl.tensor,
    num_rows: tl.tensor,
    NUM_INPUTS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    INPUTS: tl.constexpr,
    WIDEN: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    pair, outputs = _outputs(OUTPUTS, HALF)
    inside = outputs < 2 * num_pairs
    total = sum_tile(rows, weight, outputs, inside, num_rows, NUM_INPUTS, ROWS, PARTS, INPUTS, WIDEN)
    scale, added = load_scale_and_bias(
        scales + outputs[:, None], bias + outputs[:, None], inside[:, None], HAS_SCALES, HAS_BIAS
    )
    total = total * scale + added
    token = tl.arange(0, ROWS)[None, :].to(tl.int64)
    head, lane = (pair // HALF)[:, None], (pair % HALF)[:, None]
    is_pair = (pair < num_pairs)[:, None] & (token < num_rows)
    token = tl.where(token < num_rows, token, 0)
    rotation = load_rotation(cosines, sines, slots, token, head, lane, is_pair, num_heads, num_kv_heads, HALF)
    total = tl.reshape(total.to(queries.dtype.element_ty), [OUTPUTS // 2, 2, ROWS])
    first, second = tl.split(tl.permute(total, (0, 2, 1)))
    memory = (queries, keys, values)
    rotate_and_store_pairs(
        first, second, rotation, token, head, lane, is_pair, memory, num_heads, num_kv_heads, num_slots, HALF
    )


@triton.jit
def _outputs(OUTPUTS: tl.constexpr, HALF: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Return this program's pairs [OUTPUTS / 2], all heads' counted through, and their outputs [OUTPUTS] int64."""
    first = tl.program_id(0).to(tl.int64) * (OUTPUTS // 2)
    output = tl.arange(0, OUTPUTS)
    of_pair = first + output // 2
    outputs = of_pair // HALF * (2 * HALF) + output % 2 * HALF + of_pair % HALF
    return first + tl.arange(0, OUTPUTS // 2), outputs
