"""The GPU kernels against their torch references: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.engine.experts import ExpertShape, ExpertWeights, mix_experts
from gptoss_backend.engine.kernels import experts as expert_kernels
from gptoss_backend.engine.kernels import grouped_gemm, routing
from gptoss_backend.engine.kernels.experts import apply_to_few, norm_and_mix
from gptoss_backend.engine.kernels.gemv import NO_TENSOR_CORES, TENSOR_CORES, GemvTiles
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile
from gptoss_backend.engine.kernels.norm import Norm, norm_and_score
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.routing import pick_experts, sort_pairs
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.operators import TorchOperators
from support.packed_experts import Case, Sizes, mix, relative_error
from support.unpacking import unpack_for_tensor_cores, unpack_one_by_one

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# the interpreter takes no assembly, by which bfloat16's halves are taken apart
FACTOR_TYPES = [tl.float32, tl.float16, *([tl.bfloat16] if DEVICE.type == "cuda" else [])]
# the interpreter computes with NumPy, which warns where a GPU does not
OVERFLOWS = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
# how many pairs share an expert decides between the kernels for few rows and those for many
FEW = [
    Sizes(1, 4, 2, 64, 96),
    Sizes(2, 32, 4, 160, 64),
    Sizes(2, 8, 3, 96, 160),
    Sizes(1, 2, 1, 2880, 32),
    Sizes(1, 4, 1, 96, 736),
]
MANY = [Sizes(9, 4, 2, 64, 96), Sizes(17, 8, 4, 160, 224), Sizes(40, 32, 4, 96, 64), Sizes(70, 5, 3, 288, 32)]


def _every_byte(scales: range) -> PackedMatrices:
    """Return one matrix [scale, 16 blocks * 32] with each byte, and so each nibble in each place, beside each scale."""
    kept = torch.tensor([*scales], dtype=torch.uint8).view(1, -1, 1).repeat(1, 1, 16)
    bytes_ = torch.stack([torch.arange(256).roll(place) for place in range(len(scales))]).view(1, -1, 16, 16)
    return PackedMatrices(bytes_.to(DEVICE, torch.uint8), kept.to(DEVICE), torch.float32)


@OVERFLOWS
@pytest.mark.parametrize(
    ("dtype", "least_scale"),
    # the interpreter makes zeros of bfloat16's subnormals
    [(torch.float32, 0), (torch.bfloat16, 2 if DEVICE.type == "cpu" else 0), (torch.float16, 0)],
)
def test_unpack_when_every_byte_and_scale_occurs_then_the_bits_are_the_reference_s(
    dtype: torch.dtype, least_scale: int
) -> None:
    matrices = dataclasses.replace(_every_byte(range(least_scale, 255)), dtype=dtype)
    expected = matrices.unpack()
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(unpack_one_by_one(matrices.repack()).view(bits), expected.view(bits))


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("dtype", FACTOR_TYPES)
def test_unpack_when_for_tensor_cores_then_each_weight_is_in_its_place(dtype: tl.dtype, width: int) -> None:
    matrices = _every_byte(range(108, 140) if dtype == tl.float16 else range(60, 188))
    expected = matrices.unpack()
    assert torch.equal(unpack_for_tensor_cores(matrices.repack(), dtype, width), expected)


def test_repack_when_indexed_then_gives_what_was_published() -> None:
    matrices = _every_byte(range(100, 116))
    expected = matrices.unpack()
    repacked = matrices.repack()
    assert torch.equal(repacked[0], expected[0])
    assert repacked.blocks is matrices.blocks


@pytest.mark.parametrize("sizes", FEW + MANY, ids=str)
def test_mix_when_float32_then_matches_the_reference_up_to_rounding(sizes: Sizes) -> None:
    case = Case.random(sizes, torch.float32, DEVICE)
    expected = case.exact()
    found = mix(case.hidden, case.weights, case.shape)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("num_experts", "most"), [(32, 6), (128, 12)], ids=["20b", "120b"])
def test_rows_when_so_many_share_experts_that_sorting_pays_then_they_are_no_longer_few(
    num_experts: int, most: int
) -> None:
    weights, shape = SimpleNamespace(router=torch.empty(num_experts, 8)), ExpertShape(4, 1.702, 7.0)
    few = [expert_kernels._are_few(torch.empty(count, 8), weights, shape) for count in range(1, most + 2)]
    assert few == [True] * most + [False]


@pytest.mark.parametrize(
    ("sizes", "dtype"), [(Sizes(2, 8, 2, 96, 96), torch.float32), (Sizes(1, 4, 1, 96, 224), torch.float16)], ids=str
)
def test_mix_when_the_card_multiplies_no_tiles_then_few_rows_are_right_too(
    sizes: Sizes, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expert_kernels, "_has_tile_multiplication", lambda device: False)
    case = Case.random(sizes, dtype, DEVICE)
    found = mix(case.hidden, case.weights, case.shape)
    assert relative_error(found, case.exact()) < (1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.parametrize(
    ("sizes", "dtype", "bound"),
    [
        (Sizes(1, 4, 2, 96, 64), torch.float16, 2e-3),
        (Sizes(1, 4, 2, 96, 64), torch.bfloat16, 1e-2),
        (Sizes(17, 8, 4, 96, 64), torch.float16, 2e-3),
        (Sizes(17, 8, 4, 96, 64), torch.bfloat16, 1e-2),
    ],
    ids=str,
)
def test_mix_when_half_precision_then_only_rounding_is_lost(sizes: Sizes, dtype: torch.dtype, bound: float) -> None:
    case = Case.random(sizes, dtype, DEVICE)
    assert relative_error(mix(case.hidden, case.weights, case.shape), case.exact()) < bound


@pytest.mark.parametrize("num_tokens", [2, 20])
def test_mix_when_float16_and_the_sum_outgrows_it_then_it_is_right(num_tokens: int) -> None:
    case = Case.random(Sizes(num_tokens, 4, 2, 64, 64), torch.float16, DEVICE)
    down = case.weights.down
    assert isinstance(down, PackedMatrices)
    down = dataclasses.replace(down, scales=down.scales + 18)
    case = dataclasses.replace(case, weights=dataclasses.replace(case.weights, down=down))
    expected = case.exact()
    assert float(expected.abs().max()) > torch.finfo(torch.float16).max
    assert relative_error(mix(case.hidden, case.weights, case.shape), expected) < 2e-3


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU has a width of its own")
@pytest.mark.parametrize("sizes", [Sizes(17, 8, 4, 160, 224), Sizes(9, 4, 2, 128, 256)], ids=str)
def test_mix_when_sorted_for_hopper_s_own_instruction_then_matches_the_reference_too(
    sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (grouped_gemm, routing):
        monkeypatch.setattr(module, "width_of_warpgroups", lambda: 2)
    case = Case.random(sizes, torch.float32, DEVICE)
    assert relative_error(mix(case.hidden, case.weights, case.shape), case.exact()) < 1e-6


@pytest.mark.skipif(DEVICE.type == "cuda", reason="a GPU has a width of its own")
@pytest.mark.parametrize("width", [2, 4])
def test_rows_when_sorted_for_a_width_then_each_lane_s_values_are_one_block_s(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "width_of_warpgroups", lambda: width)
    values = torch.arange(1.0, 225.0, device=DEVICE)
    rows = sort_pairs(torch.zeros(1, 1, dtype=torch.int32, device=DEVICE), 1, values[None], padded=256).rows
    first_four = rows[0, :128].view(-1, 4, width)
    for lane in range(4):
        assert ((first_four[:, lane] - 1) // 32 == lane).all()
    assert sorted(rows[0].tolist()) == [0.0] * 32 + values.tolist()


def test_mix_when_all_tokens_choose_the_same_experts_then_it_is_right() -> None:
    case = Case.random(Sizes(40, 16, 2, 64, 32), torch.float32, DEVICE)
    bias = torch.zeros_like(case.weights.router_bias)
    bias[[3, 15]] = 1000
    weights: ExpertWeights = dataclasses.replace(case.weights, router_bias=bias)
    case = dataclasses.replace(case, weights=weights)
    assert relative_error(mix(case.hidden, weights, case.shape), case.exact()) < 1e-5


@pytest.mark.parametrize("num_tokens", [32, 48, 64, 128, 192, 256])
@pytest.mark.parametrize("num_experts", [32, 128])
def test_tile_when_tokens_spread_as_a_router_would_then_hardly_an_expert_needs_a_second(
    num_tokens: int, num_experts: int
) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    chosen = torch.rand(num_tokens, num_experts, generator=generator).topk(4).indices
    counts = torch.bincount(chosen.flatten())
    tile = GemmTile.for_rows(4 * num_tokens, num_experts)
    tiles = int((-(-counts // tile.rows)).sum())
    assert tiles <= 1.1 * int(counts.count_nonzero())
    assert tiles <= tile.most_tiles(4 * num_tokens, num_experts)


@pytest.mark.parametrize("tiles", [TENSOR_CORES, NO_TENSOR_CORES])
def test_few_when_rows_share_a_batch_then_each_has_the_bits_it_has_alone(tiles: GemvTiles) -> None:
    case = Case.random(Sizes(3, 4, 2, 96, 32), torch.float32, DEVICE)
    norm = Norm(torch.ones(96, device=DEVICE), 1e-5, torch.float32)
    outputs = []
    for rows in ([0, 1, 2], [0], [1], [2]):
        hidden, tile = case.hidden[rows], tiles.gate_up
        _, scored = norm_and_score(hidden, hidden, norm, case.weights, tile.padded(96), tile.width)
        routes = pick_experts(scored.scores, 2)
        outputs.append(apply_to_few(scored.rows, routes, case.weights, case.shape, tiles))
    assert torch.equal(outputs[0], torch.cat(outputs[1:]))


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [(Sizes(1, 4, 2, 96, 64), torch.float32), (Sizes(3, 40, 4, 96, 32), torch.float16), (Sizes(9, 4, 2, 64, 32), None)],
    ids=str,
)
def test_norm_and_mix_when_rows_are_few_or_many_then_stream_and_mixture_are_torch_s(
    sizes: Sizes, dtype: torch.dtype | None
) -> None:
    dtype = dtype or torch.float32
    case = Case.random(sizes, dtype, DEVICE)
    generator = torch.Generator().manual_seed(1)
    addition = (torch.randn(case.hidden.shape, generator=generator) / 8).to(DEVICE)
    weight = torch.full((sizes.hidden,), 1.5, device=DEVICE)
    stream = case.hidden.float()
    total, mixed = norm_and_mix(stream, addition, Norm(weight, 1e-5, dtype), case.weights, case.shape)
    expected, normed = TorchOperators.add_and_norm(stream.double(), addition, weight, 1e-5, torch.float64)
    wide = case.to_float64()
    assert total.dtype == torch.float32
    assert relative_error(total, expected) < 1e-6
    exact = mix_experts(normed, wide.weights, wide.shape)
    assert relative_error(KernelOperators.sum(mixed), exact) < (1e-5 if dtype == torch.float32 else 3e-3)
    # what the next norm adds is their sum
    arguments = (total, mixed, weight, 1e-5, dtype)
    following, _ = KernelOperators(DEVICE).add_and_norm(*arguments)
    assert relative_error(following, expected + exact) < (1e-5 if dtype == torch.float32 else 3e-3)


@pytest.mark.parametrize(("num_experts", "top_k"), [(4, 2), (5, 3), (32, 4), (128, 4), (8, 1)])
def test_pick_when_scores_differ_then_matches_torch(num_experts: int, top_k: int) -> None:
    scores = torch.randn(9, num_experts, generator=torch.Generator().manual_seed(num_experts)).to(DEVICE)
    routes = pick_experts(scores, top_k)
    expected = torch.topk(scores, top_k, dim=-1)
    assert torch.equal(routes.experts.long(), expected.indices)
    torch.testing.assert_close(routes.shares, torch.softmax(expected.values, dim=-1))


def test_pick_when_scores_are_equal_then_takes_the_first_and_none_twice() -> None:
    routes = pick_experts(torch.tensor([[1.0, 2.0, 2.0, 2.0, 1.0]], device=DEVICE), 4)
    assert routes.experts.tolist() == [[1, 2, 3, 0]]


@OVERFLOWS
def test_pick_when_scores_are_no_numbers_then_experts_exist() -> None:
    # on a GPU comparisons with NaN may choose a lane beyond the last expert; the interpreter passes NaN over
    nan, infinity = float("nan"), float("inf")
    rows = [[nan, 1.0, nan, 2.0, nan], [-infinity] * 5, [infinity] * 5, [-infinity, nan, 1.0, infinity, nan]]
    experts = pick_experts(torch.tensor(rows, device=DEVICE), 4).experts
    assert int(experts.min()) >= 0
    assert int(experts.max()) < 5


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 700), st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_sort_when_pairs_are_random_then_matches_a_stable_sort(
    num_tokens: int, top_k: int, num_experts: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    experts = torch.randint(num_experts, (num_tokens, top_k), generator=generator, dtype=torch.int32)
    order = sort_pairs(experts.to(DEVICE), num_experts, torch.empty(num_tokens, 0, device=DEVICE), padded=0)
    assert torch.equal(order.pairs.cpu().long(), torch.argsort(experts.flatten(), stable=True))
    counts = torch.bincount(experts.flatten(), minlength=num_experts)
    assert torch.equal(order.ends.cpu().long(), counts.cumsum(0))
