"""Matmuls of few rows on a real GPU, at GPT-OSS's own sizes."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.engine.int8 import EightBitMatrix
from gptoss_backend.engine.kernels.skinny import MOST_ROWS, multiply_few
from support.packed_experts import relative_error

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs an Ampere GPU or later"
)
CUDA = torch.device("cuda")
QKV, OUTPUT, UNEMBEDDING = (5120, 2880), (2880, 4096), (201_088, 2880)


def random_matrices(num_rows: int, size: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return rows, weight and bias; results are of size 1."""
    generator = torch.Generator(CUDA).manual_seed(num_rows)
    num_outputs, num_inputs = size
    shapes = ((num_rows, num_inputs), 1.0), (size, num_inputs**-0.5), ((num_outputs,), 1.0)
    return [(torch.randn(shape, generator=generator, device=CUDA) * scale).to(dtype) for shape, scale in shapes]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [QKV, OUTPUT, UNEMBEDDING], ids=str)
@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 8, 9, MOST_ROWS])
def test_few_rows_when_sized_as_gpt_oss_then_only_rounding_is_lost(
    num_rows: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    rows, weight, bias = random_matrices(num_rows, size, dtype)
    expected = rows.float() @ weight.float().T + bias.float()
    assert relative_error(multiply_few(rows, weight, bias), expected) < 5e-3
    assert relative_error(multiply_few(rows, weight, bias, dtype=torch.float32), expected) < 2e-3  # TF32 may be on


@pytest.mark.parametrize("size", [QKV, OUTPUT, UNEMBEDDING], ids=str)
@pytest.mark.parametrize("num_rows", [1, 4, 5, MOST_ROWS])
def test_few_rows_when_the_matrix_has_eight_bits_then_only_rounding_is_lost(
    num_rows: int, size: tuple[int, int]
) -> None:
    rows, weight, bias = random_matrices(num_rows, size, torch.bfloat16)
    rounded = EightBitMatrix.of(weight, torch.bfloat16, CUDA)
    expected = rows.float() @ (rounded.values.float() * rounded.scales[:, None]).T + bias.float()
    assert relative_error(multiply_few(rows, rounded, bias), expected) < 5e-3


@pytest.mark.parametrize("num_rows", [1, MOST_ROWS])
def test_few_rows_when_computed_again_then_the_bits_are_the_same(num_rows: int) -> None:
    rows, weight, bias = random_matrices(num_rows, OUTPUT, torch.bfloat16)
    first = multiply_few(rows, weight, bias)
    assert all(torch.equal(multiply_few(rows, weight, bias), first) for _ in range(20))


@pytest.mark.parametrize("num_rows", [1, MOST_ROWS])
def test_few_rows_when_captured_in_a_graph_then_replays_give_new_inputs_answer(num_rows: int) -> None:
    rows, weight, bias = random_matrices(num_rows, QKV, torch.bfloat16)
    multiply_few(rows, weight, bias)  # compiles, which a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = multiply_few(rows, weight, bias)
    rows.copy_(rows.flip(1))
    graph.replay()
    assert torch.equal(result, multiply_few(rows, weight, bias))
