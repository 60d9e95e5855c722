"""Attention with sinks over the paged cache, in plain torch: the reference for every kernel, and the CPU's path.

Owns: which cache slots a step writes and reads (`AttentionPlan`, one for each layer group and step), the softmax.
Does not know: weights, the scheduler.

A sink is a learned logit per head that takes part in the softmax and has no value (gpt-oss model card, section 2.2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.block_tables import BlockTable
from gptoss_backend.engine.precision import FLOAT8, FLOAT8_MOST

# scores of one tile of queries: bounds what a long prefill holds at once, at little cost in speed
_TILE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Keys:
    """What some queries read: cache slots, and which of them each query may not see."""

    slots: Tensor
    """[num_sequences, num_keys] int64; slots of hidden keys are 0, which holds zeros."""
    hidden: Tensor
    """[num_sequences, num_queries, num_keys] bool."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """A step's reads and writes in the layers of one group."""

    write_slots: Tensor
    """[num_tokens] int64, where each token's key and value go."""
    decodes: _Keys | None
    chunks: tuple[tuple[Chunk, _Keys], ...]

    @classmethod
    def build(
        cls, batch: Batch, group: BlockTable, block_size: int, device: torch.device, first: int = 0
    ) -> AttentionPlan:
        """Look up the slots of everything `batch` writes and reads in the layers of `group`.

        first: positions before it are not seen.
        """
        table = group.table.to(device)
        rows, positions = (torch.tensor(numbers, device=device) for numbers in (batch.rows, batch.positions))
        write_slots = _slots(table, rows, positions, block_size)
        decodes = None
        if count := batch.num_decodes:
            longest = max(batch.positions[:count]) + 1
            decodes = _decode_keys(rows[:count], positions[:count], longest, table, group.window, block_size, first)
        chunks = tuple((chunk, _chunk_keys(chunk, table, group.window, block_size, first)) for chunk in batch.chunks)
        return cls(write_slots, decodes, chunks)


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cache_keys: Tensor,
    cache_values: Tensor,
    sinks: Tensor,
    plan: AttentionPlan,
) -> Tensor:
    """Write the step's keys and values into the cache, in place, and return the attention output.

    queries: [num_tokens, num_heads, head_dim]; keys, values: [num_tokens, num_kv_heads, head_dim].
    cache_keys, cache_values: [num_kv_heads, num_slots, head_dim], in the queries' dtype or float8, to which is rounded
    then. sinks: [num_heads]. Returns [num_tokens, num_heads, head_dim].
    """
    _write(keys, plan.write_slots, cache_keys)
    _write(values, plan.write_slots, cache_values)
    output = torch.empty_like(queries)
    if plan.decodes is not None:
        count = plan.decodes.slots.shape[0]
        output[:count] = _read(queries[:count, None], cache_keys, cache_values, sinks, plan.decodes)[:, 0]
    for chunk, read in plan.chunks:
        span = slice(chunk.start, chunk.start + chunk.length)
        output[span] = _read(queries[None, span], cache_keys, cache_values, sinks, read)[0]
    return output


def _slots(table: Tensor, rows: Tensor, positions: Tensor, block_size: int) -> Tensor:
    return table[rows, positions // block_size].long() * block_size + positions % block_size


def _decode_keys(
    rows: Tensor, last_positions: Tensor, longest: int, table: Tensor, window: int | None, block_size: int, first: int
) -> _Keys:
    """Keys of sequences with one query each, padded to the longest context (or the window)."""
    last = last_positions[:, None]
    num_keys = longest if window is None else min(window, longest)
    offsets = torch.arange(num_keys, device=last.device)
    positions = offsets if window is None else last - num_keys + 1 + offsets
    hidden = (positions > last) | (positions < first)
    slots = _slots(table, rows[:, None], positions.clamp(min=0), block_size)
    return _Keys(slots.masked_fill(hidden, 0), hidden[:, None])


def _chunk_keys(chunk: Chunk, table: Tensor, window: int | None, block_size: int, first: int) -> _Keys:
    """Keys of one sequence's consecutive queries: all from the first that any of them sees."""
    end = chunk.position + chunk.length
    first = first if window is None else max(first, chunk.position - window + 1)
    keys = torch.arange(first, end, device=table.device)
    queries = torch.arange(chunk.position, end, device=table.device)[:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    row = torch.tensor(chunk.row, device=table.device)
    return _Keys(_slots(table, row, keys, block_size)[None], hidden[None])


def _read(queries: Tensor, cache_keys: Tensor, cache_values: Tensor, sinks: Tensor, read: _Keys) -> Tensor:
    """Attend from queries [num_sequences, num_queries, num_heads, head_dim]; returns the same shape."""
    num_sequences, num_queries, num_heads, head_dim = queries.shape
    num_kv_heads = cache_keys.shape[0]
    group_size = num_heads // num_kv_heads
    num_keys = read.slots.shape[1]
    flat = read.slots.reshape(-1)
    shape = (num_kv_heads, num_sequences, num_keys, head_dim)
    keys, values = (_gather(memory, flat, queries.dtype).view(shape) for memory in (cache_keys, cache_values))
    # [num_kv_heads, num_sequences, num_queries, group_size, head_dim]: heads that share keys become rows of one matrix
    grouped = queries.view(num_sequences, num_queries, num_kv_heads, group_size, head_dim).permute(2, 0, 1, 3, 4)
    scale = head_dim**-0.5
    if queries.dtype == torch.float16:  # unscaled, a product may exceed its largest number, 65,504
        grouped, scale = grouped * scale, 1.0
    sink = sinks.float().view(num_kv_heads, 1, 1, group_size, 1)
    output = torch.empty_like(grouped)
    tile = max(1, _TILE_BYTES // (4 * num_heads * num_keys * num_sequences))
    for start in range(0, num_queries, tile):
        span = slice(start, start + tile)
        rows = grouped[:, :, span].reshape(num_kv_heads, num_sequences, -1, head_dim)
        scores = (rows @ keys.transpose(2, 3)).float().mul_(scale)
        scores = scores.view(num_kv_heads, num_sequences, -1, group_size, num_keys)
        scores.masked_fill_(read.hidden[None, :, span, None], float("-inf"))
        weights = _softmax_with_sink(scores, sink).to(values.dtype)
        mixed = weights.view(num_kv_heads, num_sequences, -1, num_keys) @ values
        output[:, :, span] = mixed.view(num_kv_heads, num_sequences, -1, group_size, head_dim)
    return output.permute(1, 2, 0, 3, 4).reshape(num_sequences, num_queries, num_heads, head_dim)


def _write(vectors: Tensor, slots: Tensor, memory: Tensor) -> None:
    """Write vectors [num_tokens, num_kv_heads, head_dim] into their slots, in place."""
    if memory.dtype == FLOAT8:
        vectors = vectors.clamp(-FLOAT8_MOST, FLOAT8_MOST).to(FLOAT8)
        vectors, memory = vectors.view(torch.uint8), memory.view(torch.uint8)  # torch indexes no float8
    memory.index_copy_(1, slots, vectors.transpose(0, 1))


def _gather(memory: Tensor, slots: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is in some slots, [num_kv_heads, len(slots), head_dim] in `dtype`."""
    if memory.dtype == FLOAT8:
        return memory.view(torch.uint8).index_select(1, slots).view(FLOAT8).to(dtype)
    return memory.index_select(1, slots)


def _softmax_with_sink(scores: Tensor, sink: Tensor) -> Tensor:
    """Return the weights of the keys, in place of `scores` [..., num_keys]; `sink` broadcasts to [..., 1]."""
    peak = torch.maximum(scores.amax(dim=-1, keepdim=True), sink)
    scores.sub_(peak).exp_()
    return scores.div_(scores.sum(dim=-1, keepdim=True) + (sink - peak).exp())
