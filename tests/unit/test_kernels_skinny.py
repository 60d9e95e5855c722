"""Matmuls of few rows against torch's: in Triton's interpreter, or on the GPU where there is one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.engine.int8 import EightBitMatrix
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.skinny import MOST_ROWS, MatrixTile, multiply_few
from gptoss_backend.engine.operators import TorchOperators
from support.packed_experts import relative_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def random_matrices(num_rows: int, num_outputs: int, num_inputs: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return rows, weight and bias."""
    generator = torch.Generator().manual_seed(num_rows + num_outputs + num_inputs)
    shapes = (num_rows, num_inputs), (num_outputs, num_inputs), (num_outputs,)
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def exact(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return TorchOperators.linear(rows.double(), weight.double(), None if bias is None else bias.double())


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@settings(max_examples=8, deadline=None)
@given(st.integers(1, MOST_ROWS), st.integers(1, 70), st.integers(1, 1200), st.booleans())
def test_few_rows_when_sizes_are_random_then_only_rounding_is_lost(
    dtype: torch.dtype, num_rows: int, num_outputs: int, num_inputs: int, has_bias: bool
) -> None:
    rows, weight, bias = random_matrices(num_rows, num_outputs, num_inputs, dtype)
    added = bias if has_bias else None
    found = multiply_few(rows, weight, added)
    assert found.dtype == dtype
    assert relative_error(found, exact(rows, weight, added)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_few_rows_when_the_result_is_wider_then_sums_are_float32(dtype: torch.dtype) -> None:
    for num_rows in (2, 7):
        rows, weight, bias = random_matrices(num_rows, 40, 300, dtype)
        found = multiply_few(rows, weight, bias, dtype=torch.float32)
        assert relative_error(found, exact(rows, weight, bias)) < BOUNDS[torch.float32]


def test_vectors_when_they_share_a_batch_then_each_has_the_bits_it_has_alone() -> None:
    rows, weight, bias = random_matrices(4, 21, 1100, torch.bfloat16)
    together = multiply_few(rows, weight, bias)
    for row in range(4):
        assert torch.equal(multiply_few(rows[[row]], weight, bias), together[[row]])


@pytest.mark.parametrize("num_rows", [1, 3, 5, 12])
def test_few_rows_when_a_memory_is_given_then_nothing_beyond_them_is_written(num_rows: int) -> None:
    rows, weight, _ = random_matrices(num_rows, 37, 50, torch.float32)
    memory = torch.full((MOST_ROWS + 1, 37), -1.0, device=DEVICE)
    found = KernelOperators.linear(rows, weight, out=memory[:num_rows])
    assert found.data_ptr() == memory.data_ptr()
    assert relative_error(memory[:num_rows], exact(rows, weight, None)) < BOUNDS[torch.float32]
    assert bool((memory[num_rows:] == -1).all())


@pytest.mark.parametrize("num_rows", [0, MOST_ROWS + 1])
def test_linear_when_there_are_no_rows_or_many_then_it_is_torch_s(num_rows: int) -> None:
    rows, weight, bias = random_matrices(num_rows, 8, 16, torch.float32)
    assert torch.equal(KernelOperators.linear(rows, weight, bias), TorchOperators.linear(rows, weight, bias))
    assert torch.equal(KernelOperators.project(rows, weight, bias), TorchOperators.project(rows, weight, bias))


@pytest.mark.parametrize("num_rows", [1, 6])
def test_project_when_float16_and_the_sum_outgrows_it_then_it_is_right(num_rows: int) -> None:
    rows, weight, bias = random_matrices(num_rows, 24, 400, torch.float16)
    rows *= 8000
    expected = exact(rows, weight, bias)
    assert float(expected.abs().max()) > torch.finfo(torch.float16).max
    found = KernelOperators.project(rows, weight, bias)
    assert found.dtype == TorchOperators.project(rows, weight, bias).dtype == torch.float32
    assert relative_error(found, expected) < BOUNDS[torch.float32]


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("num_rows", [1, 4, 7, 16, 20])
def test_few_rows_when_the_matrix_has_eight_bits_then_only_rounding_is_lost(num_rows: int, dtype: torch.dtype) -> None:
    rows, weight, bias = random_matrices(num_rows, 41, 700, dtype)
    rounded = EightBitMatrix.of(weight, dtype, DEVICE)
    expected = exact(rows, rounded.values.double() * rounded.scales[:, None].double(), bias)
    bound = 2 * BOUNDS[dtype]  # many rows meet weights that are rounded once more
    assert relative_error(KernelOperators.linear(rows, rounded, bias), expected) < bound
    assert relative_error(KernelOperators.project(rows, rounded, bias), expected) < bound


def test_tile_when_outputs_are_few_then_it_is_small_enough_for_every_multiprocessor() -> None:
    assert [MatrixTile.of(size, 16).outputs for size in (201_088, 5120, 2880, 32)] == [64, 32, 16, 16]
    assert [MatrixTile.of(2880, rows).rows for rows in (5, 8, 9, 16)] == [8, 8, 16, 16]
