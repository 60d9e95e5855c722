"""Paged attention with sinks on the device: the torch reference is `engine/attention.py`.

Owns: the softmax over cached keys, for decoding rows and prefill chunks alike, with and without a window.
Does not know: how keys got into the cache.

A program takes one tile of a sequence's consecutive queries, one kv head with all the heads that share it, and one
part of the keys the tile sees; so a key is read once for all of these. Where keys are divided, a second kernel joins
the parts. Nothing is added atomically: the same step gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.interpreter import IS_INTERPRETED

_LOG2_E = tl.constexpr(1.4426950408889634)  # the exponential is one of base 2
# below every score; finite, since the difference of two infinities is no number
_NOTHING = tl.constexpr(-1.0e30)
_MIN_DOT = 16  # of each side of a tile multiplication
_KEYS = 64
# about four programs for each multiprocessor of an H100: enough loads under way to hide the memory's latency
_WANTED_PROGRAMS = 512
_MOST_SPLITS = 64
# where there are more vectors than programs that run at once, a program joins some heads' parts one after the other
_WANTED_JOINS = 4096
_HEADS_JOINED = 8
_KEYS_WORTH_A_PART = 512
"""Where there are programs enough without parts: each writes its outcome in float32, which somebody has to read."""


@dataclass(frozen=True, slots=True)
class QueryTiles:
    """Runs of consecutive queries, each of one sequence."""

    places: Tensor
    """[num_tiles, 4] int32: first token in the batch, number of tokens, row of the block table, first position"""
    width: int
    """Tokens that a tile holds at most"""
    num_splits: int
    """Parts into which the keys of a tile are divided where there is no window"""


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Where a layer's keys and values are found."""

    keys: Tensor
    """[num_kv_heads, num_slots, head_dim], in the queries' dtype or float8"""
    values: Tensor
    table: Tensor
    """[num_rows, num_blocks] int32, on the device"""
    block_size: int
    window: int | None
    first: int = 0
    """Positions before it are not seen, and nobody asks from there"""


def splits_for(num_tiles: int, num_kv_heads: int, longest: int, least: int = 1) -> int:
    """Return into how many parts to divide the keys, so that the device has enough to do; `longest`: of contexts."""
    wanted = max(least, _WANTED_PROGRAMS // max(1, num_tiles * num_kv_heads))
    return max(1, min(wanted, _MOST_SPLITS, -(-longest // _KEYS)))


def attend_tiles(queries: Tensor, cache: PagedCache, sinks: Tensor, tiles: QueryTiles, output: Tensor) -> None:
    """Attend from the tokens of `tiles` to all keys they see, into their rows of `output`; the others are left alone.

    queries, output: [num_tokens, num_heads, head_dim], contiguous. sinks: [num_heads] float32. The tokens' own keys
    are in the cache already.
    """
    num_heads, head_dim = queries.shape[1:]
    num_kv_heads, num_slots, _ = cache.keys.shape
    num_splits = 1 if cache.window is not None else tiles.num_splits
    is_split = num_splits > 1
    parts, states = (output, output) if not is_split else _memory_for_parts(queries, num_splits)
    is_busy = len(tiles.places) * num_kv_heads >= _WANTED_PROGRAMS
    fewest_keys = _KEYS_WORTH_A_PART if is_busy else _KEYS
    rows = max(_MIN_DOT, triton.next_power_of_2(tiles.width * (num_heads // num_kv_heads)))
    _attend_tiles[(len(tiles.places), num_kv_heads, num_splits)](
        queries,
        cache.keys,
        cache.values,
        sinks,
        tiles.places,
        cache.table,
        parts,
        states,
        head_dim**-0.5 * _LOG2_E.value,
        num_slots,
        cache.table.stride(0),
        fewest_keys,
        GROUP=num_heads // num_kv_heads,
        HEAD_DIM=head_dim,
        LANES=max(_MIN_DOT, triton.next_power_of_2(head_dim)),
        ROWS=rows,
        KEYS=_KEYS,
        BLOCK_SIZE=cache.block_size,
        WINDOW=cache.window or 0,
        FIRST=cache.first,
        IS_SPLIT=is_split,
        WIDEN=IS_INTERPRETED,
        num_warps=4 if rows <= 64 else 8,
        # in float32, three stages would outgrow the shared memory of cards that have 99 KiB
        num_stages=3 if queries.element_size() <= 2 else 1,
        **launch_options(),
    )
    if is_split:
        _join(parts, states, tiles, fewest_keys, cache.first, output)


def _join(parts: Tensor, states: Tensor, tiles: QueryTiles, fewest_keys: int, first: int, output: Tensor) -> None:
    """Join what the parts of the tiles' keys came to, as `attend_tiles` says. parts, states: of `_memory_for_parts`."""
    num_heads, head_dim = output.shape[1:]
    num_vectors = len(tiles.places) * tiles.width * num_heads
    heads = math.gcd(num_heads, _HEADS_JOINED) if num_vectors > _WANTED_JOINS else 1
    _join_splits[(len(tiles.places), tiles.width, num_heads // heads)](
        parts,
        states,
        tiles.places,
        output,
        tiles.num_splits,
        fewest_keys,
        HEADS=heads,
        HEAD_DIM=head_dim,
        LANES=triton.next_power_of_2(head_dim),
        KEYS=_KEYS,
        FIRST=first,
        MOST_SPLITS=_MOST_SPLITS,
        num_warps=4,
        **launch_options(),
    )


def _memory_for_parts(queries: Tensor, num_splits: int) -> tuple[Tensor, Tensor]:
    """Return memory for unnormalised outputs, and for the peak and the sum of each."""
    shape = (*queries.shape[:2], num_splits)
    return (
        torch.empty(*shape, queries.shape[2], dtype=torch.float32, device=queries.device),
        torch.empty(*shape, 2, dtype=torch.float32, device=queries.device),
    )


# how many parts there are and how wide the table is changes as contexts grow: nothing is to be compiled for it then
@triton.jit(do_not_specialize=["table_stride", "fewest_keys"])
def _attend_tiles(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    sinks: tl.tensor,
    places: tl.tensor,
    table: tl.tensor,
    outputs: tl.tensor,
    states: tl.tensor,
    scale: tl.tensor,
    num_slots: tl.tensor,
    table_stride: tl.tensor,
    fewest_keys: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    FIRST: tl.constexpr,
    IS_SPLIT: tl.constexpr,
    WIDEN: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    place, kv_head = places + tl.program_id(0) * 4, tl.program_id(1)
    split, num_splits = tl.program_id(2), tl.num_programs(2)
    count, position = tl.load(place + 1), tl.load(place + 3)
    end = position + count
    first = FIRST
    if WINDOW:
        first = tl.maximum(position - WINDOW + 1, FIRST)
    share = _keys_of_a_part(first, end, num_splits, fewest_keys, KEYS)
    first += split * share
    last = tl.minimum(first + share, end)
    # most programs of a recorded pass have a tile that is not needed, many of a step a part without keys (to ask for
    # `count == 0` besides takes twice the registers on sm_89)
    if first >= last:
        return

    # heads that share keys are rows of one matrix, token after token
    row = tl.arange(0, ROWS)
    token, head = row // GROUP, kv_head * GROUP + row % GROUP
    real = token < count
    lane = tl.arange(0, LANES)
    vector = (tl.load(place).to(tl.int64) + token) * (tl.num_programs(1) * GROUP) + head
    inside = real[:, None] & (lane < HEAD_DIM)[None, :]
    query = tl.load(queries + vector[:, None] * HEAD_DIM + lane[None, :], mask=inside, other=0)

    # the sink is one more key, without a value, of the first part
    sink = tl.load(sinks + head, mask=real, other=0).to(tl.float32) * _LOG2_E
    peak = tl.where(split == 0, sink, _NOTHING)
    total = tl.where(split == 0, tl.full([ROWS], 1.0, tl.float32), 0.0)
    mixed = tl.zeros([ROWS, LANES], tl.float32)
    blocks = table + tl.load(place + 2).to(tl.int64) * table_stride
    cache = kv_head.to(tl.int64) * num_slots
    for start in range(first, last, KEYS):
        key = start + tl.arange(0, KEYS)
        within = key < last
        block = tl.load(blocks + key // BLOCK_SIZE, mask=within, other=0)
        vectors = (cache + block.to(tl.int64) * BLOCK_SIZE + key % BLOCK_SIZE)[:, None] * HEAD_DIM + lane[None, :]
        present = within[:, None] & (lane < HEAD_DIM)[None, :]
        loaded = tl.load(keys + vectors, mask=present, other=0.0).to(query.dtype)  # a float8 is widened in registers
        scores = _dot(query, tl.trans(loaded), WIDEN) * scale
        seen = within[None, :] & (key[None, :] <= (position + token)[:, None])
        if WINDOW:
            seen &= key[None, :] > (position + token - WINDOW)[:, None]
        scores = tl.where(seen, scores, _NOTHING)
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        weights = tl.where(seen, tl.exp2(scores - higher[:, None]), 0.0)
        shrunk = tl.exp2(peak - higher)
        total = total * shrunk + tl.sum(weights, axis=1)
        loaded = tl.load(values + vectors, mask=present, other=0.0).to(query.dtype)
        mixed = mixed * shrunk[:, None] + _dot(weights.to(loaded.dtype), loaded, WIDEN)
        peak = higher

    if IS_SPLIT:
        part = vector * num_splits + split
        tl.store(states + part * 2, peak, mask=real)
        tl.store(states + part * 2 + 1, total, mask=real)
        tl.store(outputs + part[:, None] * HEAD_DIM + lane[None, :], mixed, mask=inside)
    else:
        mixed = (mixed / total[:, None]).to(outputs.dtype.element_ty)
        tl.store(outputs + vector[:, None] * HEAD_DIM + lane[None, :], mixed, mask=inside)


@triton.jit
def _dot(left: tl.tensor, right: tl.tensor, WIDEN: tl.constexpr) -> tl.tensor:
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def _keys_of_a_part(
    first: tl.tensor, end: tl.tensor, num_splits: tl.tensor, fewest_keys: tl.tensor, KEYS: tl.constexpr
) -> tl.tensor:
    """Return how many of the keys from `first` to `end` a part takes; the last parts may be left without."""
    return tl.maximum(tl.cdiv(tl.cdiv(end - first, num_splits), KEYS) * KEYS, fewest_keys)


@triton.jit(do_not_specialize=["num_splits", "fewest_keys"])
def _join_splits(
    parts: tl.tensor,
    states: tl.tensor,
    places: tl.tensor,
    output: tl.tensor,
    num_splits: tl.tensor,
    fewest_keys: tl.tensor,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LANES: tl.constexpr,
    KEYS: tl.constexpr,
    FIRST: tl.constexpr,
    MOST_SPLITS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    place, token = places + tl.program_id(0) * 4, tl.program_id(1)
    count, position = tl.load(place + 1), tl.load(place + 3)
    if token >= count:
        return

    end = position + count
    num_used = tl.maximum(tl.cdiv(end - FIRST, _keys_of_a_part(FIRST, end, num_splits, fewest_keys, KEYS)), 1)
    split, lane = tl.arange(0, MOST_SPLITS), tl.arange(0, LANES)
    for index in range(HEADS):
        head = tl.program_id(2) * HEADS + index
        vector = (tl.load(place).to(tl.int64) + token) * (tl.num_programs(2) * HEADS) + head
        part = vector * num_splits + split
        peak = tl.load(states + part * 2, mask=split < num_used, other=_NOTHING)
        total = tl.load(states + part * 2 + 1, mask=split < num_used, other=0)
        weight = tl.exp2(peak - tl.max(peak, axis=0))
        used = (total > 0)[:, None] & (lane < HEAD_DIM)[None, :]
        mixed = tl.load(parts + part[:, None] * HEAD_DIM + lane[None, :], mask=used, other=0)
        mixed = tl.sum(mixed * weight[:, None], axis=0) / tl.sum(total * weight, axis=0)
        tl.store(output + vector * HEAD_DIM + lane, mixed.to(output.dtype.element_ty), mask=lane < HEAD_DIM)
