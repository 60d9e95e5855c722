"""Rotary embedding and the writing of keys and values into the paged cache, in one pass over a token's heads.

Owns: `rotate_and_store`. The torch references are `RotaryEmbedding.rotate` and the writes of `attention.attend`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.float8 import float8_of


def rotate_and_store(
    heads: Tensor, rotation: tuple[Tensor, Tensor], slots: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """Write a step's keys, rotated, and values into their slots of the cache, in place; returns the rotated queries.

    heads: [num_tokens, (num_heads + 2 * num_kv_heads) * head_dim], queries, keys, values. rotation: cosines and sines,
    [num_tokens, 1, head_dim / 2]. slots: [num_tokens] int64; nothing of a token with a negative one is written.
    keys, values: [num_kv_heads, num_slots, head_dim], in heads' dtype or float8. Returns [num_tokens, num_heads,
    head_dim]. The arithmetic is float32, rounded once.
    """
    num_kv_heads, num_slots, head_dim = keys.shape
    num_tokens = len(heads)
    num_all = heads.shape[1] // head_dim
    num_heads = num_all - 2 * num_kv_heads
    queries = torch.empty(num_tokens, num_heads, head_dim, dtype=heads.dtype, device=heads.device)
    _rotate_and_store[(num_tokens, num_all)](
        heads,
        *rotation,
        slots,
        queries,
        keys,
        values,
        num_heads,
        num_kv_heads,
        num_slots,
        HALF=head_dim // 2,
        LANES=triton.next_power_of_2(head_dim // 2),
        num_warps=1,
        **launch_options(),
    )
    return queries


@triton.jit
def _rotate_and_store(
    heads: tl.tensor,
    cosines: tl.tensor,
    sines: tl.tensor,
    slots: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    num_slots: tl.tensor,
    HALF: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    lane = tl.arange(0, LANES)
    inside = lane < HALF
    source = heads + (token * tl.num_programs(1) + head) * (2 * HALF) + lane
    first, second = tl.load(source, mask=inside), tl.load(source + HALF, mask=inside)
    turned = load_rotation(cosines, sines, slots, token, head, lane, inside, num_heads, num_kv_heads, HALF)
    memory = (queries, keys, values)
    rotate_and_store_pairs(
        first, second, turned, token, head, lane, inside, memory, num_heads, num_kv_heads, num_slots, HALF
    )


@triton.jit
def load_rotation(
    cosines: tl.tensor,
    sines: tl.tensor,
    slots: tl.tensor,
    token: tl.tensor,
    head: tl.tensor,
    lane: tl.tensor,
    inside: tl.tensor,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    HALF: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return the cosines and sines by which values are rotated, and the tokens' slots, for `rotate_and_store_pairs`."""
    is_turned = inside & (head < num_heads + num_kv_heads)
    cosine = tl.load(cosines + token * HALF + lane, mask=is_turned, other=0).to(tl.float32)
    sine = tl.load(sines + token * HALF + lane, mask=is_turned, other=0).to(tl.float32)
    return cosine, sine, tl.load(slots + token)


@triton.jit
def rotate_and_store_pairs(
    first: tl.tensor,
    second: tl.tensor,
    rotation: tl.tuple,
    token: tl.tensor,
    head: tl.tensor,
    lane: tl.tensor,
    inside: tl.tensor,
    memory: tl.tuple,
    num_heads: tl.tensor,
    num_kv_heads: tl.tensor,
    num_slots: tl.tensor,
    HALF: tl.constexpr,
) -> None:
    """Do it for some pairs of a head's values, whose numbers are lane and lane + HALF.

    first, second: of any shape, to which token (int64), head (queries', keys', values') and lane broadcast. rotation:
    of `load_rotation`. memory: queries, keys, values, as in `rotate_and_store`.
    """
    cosine, sine, slot = rotation
    queries, keys, values = memory
    left, right = first.to(tl.float32), second.to(tl.float32)
    turned_left, turned_right = left * cosine - right * sine, right * cosine + left * sine
    query = queries + (token * num_heads + head) * (2 * HALF) + lane
    tl.store(query, turned_left.to(query.dtype.element_ty), mask=inside & (head < num_heads))
    tl.store(query + HALF, turned_right.to(query.dtype.element_ty), mask=inside & (head < num_heads))
    is_value = head >= num_heads + num_kv_heads
    kept = inside & (head >= num_heads) & (slot >= 0)
    place = ((head - num_heads).to(tl.int64) * num_slots + slot) * (2 * HALF) + lane
    tl.store(keys + place, _as_cached(turned_left, keys), mask=kept & (head < num_heads + num_kv_heads))
    tl.store(keys + place + HALF, _as_cached(turned_right, keys), mask=kept & (head < num_heads + num_kv_heads))
    place = ((head - num_heads - num_kv_heads).to(tl.int64) * num_slots + slot) * (2 * HALF) + lane
    tl.store(values + place, _as_cached(first, values), mask=kept & is_value)
    tl.store(values + place + HALF, _as_cached(second, values), mask=kept & is_value)


@triton.jit
def _as_cached(values: tl.tensor, target: tl.tensor) -> tl.tensor:
    if target.dtype.element_ty == tl.float8e4nv:
        return float8_of(values.to(tl.float32))
    else:  # noqa: RET505 (Triton compiles what follows a return)
        return values.to(target.dtype.element_ty)
