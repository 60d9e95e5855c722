"""The attention kernels on a real GPU, at GPT-OSS's own sizes."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.engine.config import RopeConfig
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.operators import LayerCache, Operators, TorchOperators
from gptoss_backend.engine.precision import FLOAT8
from gptoss_backend.engine.rope import RotaryEmbedding
from support.attention_cases import AttentionCase, Heads
from support.packed_experts import relative_error

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs an Ampere GPU or later"
)
CUDA = torch.device("cuda")
ROPE = RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False)
CONTEXTS = [([8191], []), ([0, 127, 128, 1023, 2000], []), ([], [(0, 512), (1500, 100)]), ([700, 3], [(64, 300)])]
needs_float8 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="needs an Ada GPU or later"
)


def run(operators: Operators, case: AttentionCase, sliding: bool) -> torch.Tensor:
    cache = LayerCache(case.keys.clone(), case.values.clone(), is_sliding=sliding)
    rope = RotaryEmbedding(ROPE, 64, CUDA)
    step = operators.attention(case.batch, case.tables, rope, case.heads.dtype)
    return step.attend(case.heads, case.identity(), cache, case.sinks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("decodes", "chunks"), CONTEXTS)
def test_attention_when_sized_as_20b_then_within_a_hundredth_of_the_exact_one(
    decodes: list[int], chunks: list[tuple[int, int]], sliding: bool, dtype: torch.dtype
) -> None:
    case = AttentionCase.random(decodes, chunks, Heads(64, 8, 64), window=128, dtype=dtype, device=CUDA)
    exact = run(TorchOperators(CUDA), case.widened(), sliding)
    assert relative_error(run(KernelOperators(CUDA), case, sliding), exact) < 1e-2


@needs_float8
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("decodes", "chunks"), CONTEXTS)
def test_attention_when_the_cache_is_float8_then_within_a_hundredth_of_the_exact_one_over_it(
    decodes: list[int], chunks: list[tuple[int, int]], sliding: bool, dtype: torch.dtype
) -> None:
    case = AttentionCase.random(
        decodes, chunks, Heads(64, 8, 64), window=128, dtype=dtype, device=CUDA, cache_dtype=FLOAT8
    )
    exact = run(TorchOperators(CUDA), case.widened(), sliding)
    assert relative_error(run(KernelOperators(CUDA), case, sliding), exact) < 1e-2
