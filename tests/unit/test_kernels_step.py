"""What a recorded step shares, and its queries, keys and values, against torch: in the interpreter, or on a GPU."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.config import RopeConfig
from gptoss_backend.engine.int8 import EightBitMatrix
from gptoss_backend.engine.kernels import step_inputs
from gptoss_backend.engine.kernels.embedding import look_up
from gptoss_backend.engine.kernels.qkv import project_and_store
from gptoss_backend.engine.kernels.rotary import rotate_and_store
from gptoss_backend.engine.kernels.skinny import MOST_ROWS
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, DeviceTables
from gptoss_backend.engine.kernels.step_setup import set_up
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Draws
from gptoss_backend.engine.operators import TorchOperators
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from support.packed_experts import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROPE = RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False)
WINDOW = 20


@pytest.mark.parametrize(
    ("dtype", "bound", "eight_bit"),
    [
        (torch.float32, 1e-5, False),
        (torch.float32, 1e-5, True),
        (torch.float16, 2e-3, False),
        (torch.bfloat16, 1e-2, True),
    ],
    ids=str,
)
@pytest.mark.parametrize(("num_rows", "head_dim"), [(1, 24), (5, 16), (MOST_ROWS, 24)])
def test_project_when_rows_are_few_then_queries_and_cache_are_torch_s(
    num_rows: int, head_dim: int, dtype: torch.dtype, bound: float, eight_bit: bool
) -> None:
    num_heads, num_kv_heads, num_slots, num_inputs = 3, 2, 40, 130
    generator = torch.Generator().manual_seed(num_rows + head_dim)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(DEVICE, dtype)

    width = (num_heads + 2 * num_kv_heads) * head_dim
    rows, weight, bias = normal(num_rows, num_inputs), normal(width, num_inputs) / 8, normal(width)
    matrix = EightBitMatrix.of(weight, dtype, DEVICE) if eight_bit else weight
    rotation = RotaryEmbedding(ROPE, head_dim, DEVICE).angles(torch.arange(num_rows, device=DEVICE) * 7, torch.float32)
    slots = torch.randperm(num_slots, generator=generator)[:num_rows].to(DEVICE)
    slots[num_rows // 2] = -1 if num_rows > 1 else slots[0]  # a row that stands in writes nothing
    caches = [torch.zeros(2, num_kv_heads, num_slots, head_dim, dtype=dtype, device=DEVICE) for _ in range(2)]
    found = project_and_store(rows, matrix, bias, rotation, slots, *caches[0])
    expected = rotate_and_store(TorchOperators.linear(rows, matrix, bias), rotation, slots, *caches[1])
    assert found.dtype == dtype
    assert relative_error(found, expected) < bound
    for cache, other in zip(*caches, strict=True):
        assert relative_error(cache, other) < bound
        assert torch.equal(cache.any(dim=(0, 2)), other.any(dim=(0, 2)))


def test_rows_when_some_stand_in_for_the_first_then_they_are_to_choose_as_it_does() -> None:
    rows, sequences = DecodeRows(4, DEVICE), []
    for row in range(2):
        sequence = Sequence(GenerationRequest("", [5, 6 + row], SamplingParams()), max_tokens=9)
        sequence.row, sequence.num_computed = row, 1
        sequences.append(sequence)
    batch = Batch.build(sequences, [])
    draws = Draws([0.5, 0.7], [0.1, 0.2], [0.0, 3.0], [0.9, 1.0], [0.0, 0.1])
    rows.fill(batch, draws)
    assert rows.draws.tolist() == [[*line, line[0], line[0]] for line in draws.lines]
    assert rows.token_ids.tolist() == [6, 7, 6, 6]


def test_rows_when_they_go_on_with_what_others_chose_then_each_takes_its_own() -> None:
    rows, chosen = DecodeRows(4, DEVICE), torch.tensor([70, 71, 72, 73, 74], device=DEVICE)
    tables, rope = DeviceTables(CachePlan(16, 4, 64, 20, 20, 0), WINDOW, DEVICE), RotaryEmbedding(ROPE, 24, DEVICE)
    before = Batch([1] * 3, [8, 5, 9], [0, 3, 1], [0, 1, 2], 3, [])
    rows.fill(before.following(), None)
    set_up(rows, tables, rope, chosen)
    assert rows.token_ids.tolist() == [70, 71, 72, 70]
    left = Batch([-1, -3, 5], [9, 10, 3], [0, 1, 3], [0, 1, 2], 3, [])  # the second has ended, another begins
    rows.fill(left, None)
    set_up(rows, tables, rope, chosen)
    assert rows.token_ids.tolist() == [70, 72, 5, 70]
    assert rows.positions.tolist() == [9, 10, 3, 9]
    assert rows.rows.tolist() == [0, 1, 3, 0]


def test_tables_when_a_change_does_not_get_to_the_device_then_the_next_time_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = CachePlan(16, 2, 64, 20, 20, 0)
    tables, cache = DeviceTables(plan, WINDOW, DEVICE), KVCache(plan, WINDOW)
    sequence = Sequence(GenerationRequest("", [1] * 33, SamplingParams()), max_tokens=9)
    sequence.row, _ = cache.open(sequence.token_ids)
    tables.follow(cache)
    cache.reserve(sequence.row, 33)

    def no_memory(*numbers: object) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(step_inputs, "to_device", no_memory)
        with pytest.raises(torch.OutOfMemoryError):
            tables.follow(cache)
    cache.reserve(sequence.row, 49)
    tables.follow(cache)
    assert torch.equal(tables.full.cpu(), cache.full.table)
    assert torch.equal(tables.sliding.cpu(), cache.sliding.table)


def test_set_up_when_rows_decode_then_angles_slots_and_tiles_are_torch_s() -> None:
    plan = CachePlan(16, 4, 64, 20, 20, 0)
    tables, cache = DeviceTables(plan, WINDOW, DEVICE), KVCache(plan, WINDOW)
    sequences = []
    for length in (3, 33, 47):
        sequence = Sequence(GenerationRequest("", [1] * length, SamplingParams()), max_tokens=9)
        sequence.row, _ = cache.open(sequence.token_ids)
        cache.reserve(sequence.row, length)
        sequence.num_computed = length - 1
        sequences.append(sequence)
    tables.follow(cache)
    rows = DecodeRows(4, DEVICE)  # one more than there are sequences
    rows.fill(Batch.build(sequences, []), None)
    rope = RotaryEmbedding(ROPE, 24, DEVICE)
    shared = set_up(rows, tables, rope, torch.empty(0, dtype=torch.int64, device=DEVICE))
    for found, expected in zip(shared.rotation, rope.angles(rows.positions, torch.float32), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert rows.positions.tolist() == [2, 32, 46, 2]
    for slots, table in ((shared.full_slots, tables.full), (shared.sliding_slots, tables.sliding)):
        places = rows.rows[:3], rows.positions[:3] // 16
        assert slots.tolist() == [*(table[places] * 16 + rows.positions[:3] % 16).tolist(), -1]
    places = zip(range(4), [1] * 4, rows.rows.tolist(), rows.positions.tolist(), strict=True)
    assert shared.decodes.tolist() == [list(place) for place in places]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_look_up_when_the_table_is_the_host_s_then_rows_are_torch_s(dtype: torch.dtype) -> None:
    table = torch.randn(50, 1500, generator=torch.Generator().manual_seed(1)).bfloat16()
    ids = torch.tensor([3, 49, 0, 3])
    held = table.pin_memory() if DEVICE.type == "cuda" else table
    assert torch.equal(look_up(held, ids.to(DEVICE), dtype).cpu(), table[ids].to(dtype))
