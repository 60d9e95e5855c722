"""What all layers of a recorded step share, made of its tokens' numbers in one kernel.

Owns: the step's rotary angles, the slots of its keys and its decodes' tiles of attention, on the device, and that
tokens which the step before chose are in their places. The torch references are `RotaryEmbedding.angles`,
`KernelOperators.attention` and `take_chosen`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, DeviceTables, PassRows
from gptoss_backend.engine.rope import RotaryEmbedding


@dataclass(frozen=True, slots=True)
class StepSetup:
    """Of each token of a step."""

    rotation: tuple[Tensor, Tensor]
    """Cosines and sines, [num_tokens, 1, head_dim / 2] float32"""
    full_slots: Tensor
    """[num_tokens] int64: where keys and values go in full layers; -1 for a token that only stands in"""
    sliding_slots: Tensor
    decodes: Tensor
    """[num_tokens, 4] int32: each token as a tile of its own, as `QueryTiles.places`"""


def set_up(rows: DecodeRows | PassRows, tables: DeviceTables, rope: RotaryEmbedding, chosen: Tensor) -> StepSetup:
    """Return what a step's layers share. In place, of `rows.token_ids` -1 - i becomes chosen[i], int64."""
    device, count = rows.positions.device, rows.size
    frequencies = rope.inverse_frequencies
    cosines, sines = (torch.empty(count, 1, len(frequencies), device=device) for _ in range(2))
    full_slots, sliding_slots = (torch.empty(count, dtype=torch.int64, device=device) for _ in range(2))
    decodes = torch.empty(count, 4, dtype=torch.int32, device=device)
    _set_up[(count,)](
        rows.token_ids,
        chosen,
        rows.positions,
        rows.rows,
        rows.is_real,
        tables.full,
        tables.sliding,
        frequencies,
        rope.amplitude,
        cosines,
        sines,
        full_slots,
        sliding_slots,
        decodes,
        tables.full.stride(0),
        BLOCK_SIZE=tables.plan.block_size,
        HALF=len(frequencies),
        LANES=triton.next_power_of_2(len(frequencies)),
        num_warps=1,
        **launch_options(),
    )
    return StepSetup((cosines, sines), full_slots, sliding_slots, decodes)


@triton.jit
def _set_up(
    token_ids: tl.tensor,
    chosen: tl.tensor,
    positions: tl.tensor,
    rows: tl.tensor,
    is_real: tl.tensor,
    full: tl.tensor,
    sliding: tl.tensor,
    frequencies: tl.tensor,
    amplitude: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    full_slots: tl.tensor,
    sliding_slots: tl.tensor,
    decodes: tl.tensor,
    table_stride: tl.tensor,
    BLOCK_SIZE: tl.constexpr,
    HALF: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0)
    taken = -1 - tl.load(token_ids + token)
    tl.store(token_ids + token, tl.load(chosen + taken, mask=taken >= 0, other=0), mask=taken >= 0)
    position, row = tl.load(positions + token), tl.load(rows + token)
    lane = tl.arange(0, LANES)
    phase = position.to(tl.float32) * tl.load(frequencies + lane, mask=lane < HALF, other=0)
    tl.store(cosines + token * HALF + lane, tl.cos(phase) * amplitude, mask=lane < HALF)
    tl.store(sines + token * HALF + lane, tl.sin(phase) * amplitude, mask=lane < HALF)
    is_kept = tl.load(is_real + token) != 0
    entry, offset = row * table_stride + position // BLOCK_SIZE, position % BLOCK_SIZE
    slot = tl.load(full + entry).to(tl.int64) * BLOCK_SIZE + offset
    tl.store(full_slots + token, tl.where(is_kept, slot, -1))
    slot = tl.load(sliding + entry).to(tl.int64) * BLOCK_SIZE + offset
    tl.store(sliding_slots + token, tl.where(is_kept, slot, -1))
    tl.store(decodes + token * 4, token)
    tl.store(decodes + token * 4 + 1, 1)
    tl.store(decodes + token * 4 + 2, row.to(tl.int32))
    tl.store(decodes + token * 4 + 3, position.to(tl.int32))
