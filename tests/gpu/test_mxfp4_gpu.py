"""The expert kernels on a real GPU, at GPT-OSS's own sizes."""

from __future__ import annotations

import pytest
import torch

from support.packed_experts import Case, Sizes, mix, relative_error

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")
TOKENS = [1, 3, 8, 9, 32, 300, 2048]


def dtype_of_card() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


@pytest.mark.parametrize("num_tokens", TOKENS)
def test_mix_when_sized_as_20b_then_within_a_hundredth_of_the_exact_mixture(num_tokens: int) -> None:
    case = Case.random(Sizes(num_tokens, 32, 4, 2880, 2880), dtype_of_card(), CUDA)
    assert relative_error(mix(case.hidden, case.weights, case.shape), case.exact()) < 1e-2


@pytest.mark.parametrize("num_tokens", [1, 32, 512])
def test_mix_when_sized_as_a_quarter_of_120b_then_within_a_hundredth_of_the_exact_mixture(num_tokens: int) -> None:
    case = Case.random(Sizes(num_tokens, 128, 4, 2880, 736), dtype_of_card(), CUDA)
    assert relative_error(mix(case.hidden, case.weights, case.shape), case.exact()) < 1e-2


@pytest.mark.parametrize("num_tokens", [8, 300, 2048])
def test_mix_when_done_again_and_again_then_every_bit_stays(num_tokens: int) -> None:
    # a register that is overwritten while the tensor cores still read it shows now and then
    case = Case.random(Sizes(num_tokens, 32, 4, 2880, 2880), dtype_of_card(), CUDA)
    first = mix(case.hidden, case.weights, case.shape)
    assert all(torch.equal(mix(case.hidden, case.weights, case.shape), first) for _ in range(200))


@pytest.mark.parametrize("num_tokens", [1, 64])
def test_mix_when_captured_in_a_graph_then_replays_give_new_inputs_answer(num_tokens: int) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("only few tokens are computed without the host there")
    case = Case.random(Sizes(num_tokens, 32, 4, 2880, 2880), torch.bfloat16, CUDA)
    mix(case.hidden, case.weights, case.shape)  # compiles, which a capture cannot
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mixed = mix(case.hidden, case.weights, case.shape)
    case.hidden.copy_(case.hidden.flip(1))
    graph.replay()
    assert torch.equal(mixed, mix(case.hidden, case.weights, case.shape))
