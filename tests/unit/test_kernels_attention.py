"""The kernels of a layer's attention half against torch: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gptoss_backend.engine.config import RopeConfig
from gptoss_backend.engine.kernels import attention
from gptoss_backend.engine.kernels.attention import PagedCache, QueryTiles, attend_tiles, splits_for
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.operators import LayerCache, Operators, TorchOperators
from gptoss_backend.engine.precision import FLOAT8
from gptoss_backend.engine.rope import RotaryEmbedding
from support.attention_cases import AttentionCase, Heads
from support.packed_experts import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROPE = RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False)
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# a key whose exact value lies between two codes may fall to either
FLOAT8_BOUND = 2e-3
# (decodes' positions, chunks' (position, length))
DECODES = ([0, 5, 15, 16, 190], [])
CHUNKS = ([], [(0, 1), (0, 37), (50, 5)])
MIXED = ([3, 130], [(0, 17)])


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
@pytest.mark.parametrize(
    ("contexts", "dtype"),
    [(DECODES, torch.float32), (CHUNKS, torch.float32), *((MIXED, dtype) for dtype in BOUNDS)],
    ids=["decodes", "chunks", *(f"mixed-{dtype}" for dtype in BOUNDS)],
)
def test_attention_when_lengths_are_mixed_then_output_and_cache_are_torch_s(
    contexts: tuple[list[int], list[tuple[int, int]]], sliding: bool, dtype: torch.dtype
) -> None:
    compare(AttentionCase.random(*contexts, Heads(4, 2, 16), window=32, dtype=dtype, device=DEVICE), sliding, dtype)


@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_attention_when_the_cache_is_float8_then_output_and_cache_are_torch_s(
    dtype: torch.dtype, sliding: bool
) -> None:
    case = AttentionCase.random(*MIXED, Heads(4, 2, 16), window=32, dtype=dtype, device=DEVICE, cache_dtype=FLOAT8)
    compare(case, sliding, dtype)


# no shrinking: in the interpreter it takes minutes
@pytest.mark.parametrize("cache_dtype", [torch.float32, FLOAT8], ids=str)
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    decodes=st.lists(st.integers(0, 150), max_size=2),
    chunks=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=2),
    heads=st.sampled_from([Heads(3, 3, 24), Heads(4, 2, 64), Heads(8, 1, 32), Heads(5, 1, 8)]),
    window=st.sampled_from([1, 7, 33]),
    sliding=st.booleans(),
)
def test_attention_when_shapes_are_random_then_output_and_cache_are_torch_s(
    cache_dtype: torch.dtype,
    decodes: list[int],
    chunks: list[tuple[int, int]],
    heads: Heads,
    window: int,
    sliding: bool,
) -> None:
    if decodes or chunks:
        case = AttentionCase.random(
            decodes, chunks, heads, window=window, dtype=torch.float32, device=DEVICE, cache_dtype=cache_dtype
        )
        compare(case, sliding, torch.float32)


def compare(case: AttentionCase, sliding: bool, dtype: torch.dtype) -> None:
    exact, expected = run(TorchOperators(DEVICE), case.widened(), sliding)
    output, cache = run(KernelOperators(DEVICE), case, sliding)
    bound = max(BOUNDS[dtype], FLOAT8_BOUND if case.keys.dtype == FLOAT8 else 0.0)
    assert output.dtype == dtype
    assert relative_error(output, exact) < bound
    for found, other in ((cache.keys, expected.keys), (cache.values, expected.values)):
        assert relative_error(found, other) < bound


def run(operators: Operators, case: AttentionCase, sliding: bool) -> tuple[torch.Tensor, LayerCache]:
    rope = RotaryEmbedding(ROPE, case.shape.head_dim, DEVICE)
    cache = LayerCache(case.keys.clone(), case.values.clone(), is_sliding=sliding)
    step = operators.attention(case.batch, case.tables, rope, case.heads.dtype)
    return step.attend(case.heads, case.identity(), cache, case.sinks), cache


def test_attention_when_a_position_is_new_then_no_other_slot_changes() -> None:
    case = AttentionCase.random([40], [(3, 2)], Heads(2, 1, 16), window=32, dtype=torch.float32, device=DEVICE)
    _, cache = run(KernelOperators(DEVICE), case, sliding=False)
    changed = (cache.keys != case.keys).any(dim=(0, 2)).nonzero().flatten().tolist()
    slots = [case.slot(row, position) for row, position in zip(case.batch.rows, case.batch.positions, strict=True)]
    assert changed == sorted(slots)


@pytest.mark.parametrize(("num_splits", "is_busy"), [(2, False), (3, False), (8, False), (8, True)])
def test_attend_when_keys_are_divided_then_the_answer_stays(
    num_splits: int, is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 300 keys in tiles of 64 leave some of eight parts empty, those of a busy device most
    if is_busy:
        monkeypatch.setattr(attention, "_WANTED_PROGRAMS", 1)
        monkeypatch.setattr(attention, "_KEYS_WORTH_A_PART", 128)
    case = AttentionCase.random([299, 10, 0], [], Heads(4, 2, 16), window=32, dtype=torch.float32, device=DEVICE)
    queries = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    outputs = [torch.full_like(queries, float("nan")) for _ in range(2)]
    for output, parts in zip(outputs, (1, num_splits), strict=True):
        paged = PagedCache(case.keys, case.values, case.tables.full.table.to(DEVICE), 16, None)
        places = [(token, 1, case.batch.rows[token], case.batch.positions[token]) for token in range(3)]
        tiles = QueryTiles(torch.tensor(places, dtype=torch.int32, device=DEVICE), 1, parts)
        attend_tiles(queries, paged, case.sinks, tiles, output)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wanted_joins", [0, 10**6], ids=["heads together", "each head"])
def test_attend_when_a_pass_has_tiles_that_are_not_needed_then_nothing_that_was_not_written_is_read(
    wanted_joins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_WANTED_JOINS", wanted_joins)
    whole = attention._memory_for_parts
    monkeypatch.setattr(attention, "_memory_for_parts", lambda *of: tuple(part.fill_(torch.nan) for part in whole(*of)))
    case = AttentionCase.random([], [(140, 20)], Heads(4, 2, 16), window=32, dtype=torch.float32, device=DEVICE)
    queries = torch.randn(20, 4, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    row = case.batch.rows[0]
    places = torch.tensor([(0, 16, row, 140), (0, 0, 0, 0), (16, 4, row, 156), (0, 0, 0, 0)], dtype=torch.int32)
    paged = PagedCache(case.keys, case.values, case.tables.full.table.to(DEVICE), 16, None)
    outputs = [torch.full_like(queries, torch.nan) for _ in range(2)]
    for output, parts in zip(outputs, (1, 4), strict=True):
        attend_tiles(queries, paged, case.sinks, QueryTiles(places.to(DEVICE), 16, parts), output)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


def test_attend_when_sinks_are_large_then_little_is_left_of_the_values() -> None:
    case = AttentionCase.random([70], [], Heads(2, 2, 16), window=32, dtype=torch.float32, device=DEVICE)
    case.sinks.fill_(60.0)
    output, _ = run(KernelOperators(DEVICE), case, sliding=False)
    assert float(output.abs().max()) < 1e-6


def test_splits_when_anything_is_asked_then_none_lacks_keys() -> None:
    for tiles, heads, longest in itertools.product([1, 8, 32, 256], [1, 8], [1, 64, 1000, 131_072]):
        assert 1 <= splits_for(tiles, heads, longest, least=8) <= -(-longest // 64)
    assert splits_for(1, 8, 131_072) == 64
    assert splits_for(256, 8, 131_072) == 1
    assert splits_for(256, 8, 131_072, least=8) == 8


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("size", [64, 90])
@pytest.mark.parametrize(
    ("stream", "dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)],
    ids=str,
)
def test_norm_when_a_step_adds_then_stream_and_norm_are_torch_s(
    stream: torch.dtype, dtype: torch.dtype, size: int, adds: bool
) -> None:
    generator = torch.Generator().manual_seed(size)
    hidden, addition = (torch.randn(5, size, generator=generator).to(DEVICE, stream) for _ in range(2))
    weight = torch.randn(size, generator=generator).to(DEVICE)
    arguments = (hidden, addition.float() if adds else None, weight, 1e-5, dtype)
    total, normed = KernelOperators(DEVICE).add_and_norm(*arguments)
    exact_total, exact = TorchOperators(DEVICE).add_and_norm(hidden.double(), *arguments[1:4], torch.float64)
    assert (total.dtype, normed.dtype) == (stream, dtype)
    assert relative_error(total, exact_total) < BOUNDS[stream]
    assert relative_error(normed, exact) < BOUNDS[dtype]


def test_norm_when_the_stream_outgrows_float16_then_it_is_finite() -> None:
    hidden = torch.full((1, 64), 1e6, device=DEVICE)
    _, normed = KernelOperators(DEVICE).add_and_norm(hidden, hidden, torch.ones(64, device=DEVICE), 1e-5, torch.float16)
    assert torch.equal(normed, torch.ones_like(normed))
