"""Choosing tokens on the device, against the plain torch that does it elsewhere."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.drawing import draw_plain
from gptoss_backend.engine.kernels.sampling import choose_tokens

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen(logits: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> list[int]:
    tokens = torch.full((len(logits),), -1)
    draws = torch.tensor([temperatures, uniforms], dtype=torch.float64, device=DEVICE)
    choose_tokens(logits.to(DEVICE), draws, out := tokens.to(DEVICE))
    return out.tolist()


def reference(logits: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> list[int]:
    numbers = torch.tensor(uniforms, dtype=torch.float64)
    return [
        int(draw_plain(row[None].float(), [SamplingParams(temperature=temperature)], number[None]))
        if temperature
        else int(row.float().argmax())
        for row, temperature, number in zip(logits, temperatures, numbers, strict=True)
    ]


@pytest.mark.parametrize("vocab", [500, 128 * 20, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_choosing_when_rows_differ_in_temperature_then_tokens_are_torch_s(vocab: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(24, vocab, generator=generator) * 4).to(dtype)
    temperatures = [0.0, 1.0, 0.3, 2.0] * 6
    uniforms = torch.rand(24, generator=generator, dtype=torch.float64).tolist()
    assert chosen(logits, temperatures, uniforms) == reference(logits, temperatures, uniforms)


def test_choosing_when_a_number_is_at_an_end_then_no_token_without_weight_is_drawn() -> None:
    logits = torch.full((3, 700), -1e4)
    logits[:, 333] = 1.0
    logits[:, 650] = 2.0
    drawn = chosen(logits, [1.0] * 3, [0.0, 0.5, 1 - 2**-53])
    assert set(drawn) <= {333, 650}
    assert drawn == reference(logits, [1.0] * 3, [0.0, 0.5, 1 - 2**-53])


def test_choosing_when_tokens_are_equally_likely_then_the_lowest_is_the_likeliest() -> None:
    logits = torch.zeros(1, 900)
    logits[0, [37, 240, 871]] = 3.0
    assert chosen(logits, [0.0], [0.0]) == [37]


def test_choosing_when_drawn_often_then_shares_are_the_probabilities() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).repeat(400, 1)
    uniforms = [(number + 0.5) / 400 for number in range(400)]
    drawn = chosen(logits, [1.0] * 400, uniforms)
    assert [drawn.count(token) for token in range(3)] == [200, 120, 80]
