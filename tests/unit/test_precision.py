"""The dtype that each card gets, and the words that say why."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.engine.precision import choose_precision, precision_of_card


@pytest.mark.parametrize(
    ("name", "capability", "dtype"),
    [
        ("NVIDIA A100-SXM4-80GB", (8, 0), torch.bfloat16),
        ("NVIDIA H100 80GB HBM3", (9, 0), torch.bfloat16),
        ("NVIDIA H200", (9, 0), torch.bfloat16),
        ("NVIDIA B200", (10, 0), torch.bfloat16),
        ("NVIDIA GeForce RTX 4090", (8, 9), torch.bfloat16),
        ("Tesla V100-SXM2-32GB", (7, 0), torch.float16),
        ("Tesla T4", (7, 5), torch.float16),
        ("NVIDIA GeForce RTX 3090", (8, 6), torch.float16),
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), torch.float16),
    ],
)
def test_precision_when_a_card_is_listed_then_its_reason_names_it(
    name: str, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    precision = precision_of_card(name, capability)

    assert precision.dtype == dtype
    assert precision.reason.startswith(f"{name}: the choice for every ")


@pytest.mark.parametrize(
    ("name", "capability", "dtype", "why"),
    [
        ("Tesla P100-PCIE-16GB", (6, 0), torch.float16, "no bfloat16 arithmetic before 8.0"),
        ("NVIDIA T400", (7, 5), torch.float16, "no bfloat16 arithmetic before 8.0"),
        ("NVIDIA A10", (8, 6), torch.bfloat16, "as fast as float16"),
        ("NVIDIA RTX A1000", (8, 6), torch.bfloat16, "as fast as float16"),
        ("NVIDIA GeForce RTX 3080", (8, 6), torch.float16, "as for the RTX 3090"),
        ("NVIDIA L40S", (8, 9), torch.bfloat16, "as fast as float16"),
        ("NVIDIA GeForce RTX 5090", (12, 0), torch.bfloat16, "as fast as float16"),
    ],
)
def test_precision_when_a_card_is_not_listed_then_goes_by_its_compute_capability(
    name: str, capability: tuple[int, int], dtype: torch.dtype, why: str
) -> None:
    precision = precision_of_card(name, capability)

    assert precision.dtype == dtype
    assert precision.reason.startswith(f"{name}, compute capability {capability[0]}.{capability[1]}: ")
    assert why in precision.reason


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_precision_when_it_is_set_then_no_card_is_asked(dtype: str) -> None:
    # there is no such device here: asking torch for its name would raise
    precision = choose_precision(dtype, torch.device("cuda", 99), has_native_bfloat16=True)

    assert precision.dtype == getattr(torch, dtype)
    assert precision.reason == "set by engine.dtype or TORCH_DTYPE"


def test_precision_on_a_cpu_when_its_kernels_know_bfloat16_then_takes_it_else_float32() -> None:
    cpu = torch.device("cpu")

    assert choose_precision("auto", cpu, has_native_bfloat16=True).dtype == torch.bfloat16
    assert choose_precision("auto", cpu).dtype == torch.float32
