"""MXFP4 against transformers' own unpacking and its own definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from gptoss_backend.engine.mxfp4 import E2M1_VALUES, pack_mxfp4, round_to_mxfp4, unpack_mxfp4


def test_unpack_when_every_byte_occurs_then_matches_transformers() -> None:
    blocks = torch.arange(256, dtype=torch.uint8).repeat(4).view(2, 32, 1, 16)
    scales = torch.arange(100, 164, dtype=torch.uint8).view(2, 32, 1)
    expected = convert_moe_packed_tensors(blocks, scales)  # transposed: [experts, in, out]
    assert torch.equal(unpack_mxfp4(blocks, scales, torch.bfloat16), expected.transpose(1, 2))


def test_unpack_when_a_byte_holds_two_values_then_the_low_half_comes_first() -> None:
    blocks = torch.zeros(1, 16, dtype=torch.uint8)
    blocks[0, 0] = 0xF1  # low: code 1, 0.5; high: code 15, -6
    values = unpack_mxfp4(blocks, torch.tensor([128], dtype=torch.uint8), torch.float32)
    assert values[:2].tolist() == [1.0, -12.0]


@given(st.integers(0, 2**32 - 1))
def test_pack_when_values_are_representable_then_unpacking_gives_them_back(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, (3, 64), generator=generator)
    codes[:, 0] = codes[:, 32] = 7  # a 6 in each block pins its scale
    values = torch.tensor(E2M1_VALUES)[codes] * 2.0**-5
    assert torch.equal(unpack_mxfp4(*pack_mxfp4(values), torch.float32), values)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_pack_when_values_are_any_then_the_error_is_under_a_quarter_of_the_largest(scale: float) -> None:
    values = torch.randn(8, 320, generator=torch.Generator().manual_seed(0)) * scale
    error = (unpack_mxfp4(*pack_mxfp4(values), torch.float32) - values).abs().unflatten(-1, (-1, 32)).amax(-1)
    largest = values.abs().unflatten(-1, (-1, 32)).amax(-1)
    assert bool((error <= largest / 4).all())


@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e4])
def test_round_when_values_are_any_then_it_gives_what_packing_leaves(scale: float) -> None:
    values = torch.randn(8, 320, generator=torch.Generator().manual_seed(0))
    values[0, :16] = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7, 6, -5, -0.25, -0.0, 1e-30, 4, 7.99])
    values[1, :32] = 0.0
    assert torch.equal(round_to_mxfp4(values * scale), unpack_mxfp4(*pack_mxfp4(values * scale), torch.float32))
