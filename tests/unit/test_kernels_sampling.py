"""Choosing tokens on the device, against the plain torch that does it elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.drawing import Shortlist, draw_exactly, draw_filtered, draw_plain
from gptoss_backend.engine.kernels.choosing import choose_held
from gptoss_backend.engine.kernels.sampling import choose_tokens
from gptoss_backend.engine.model import Draws
from gptoss_backend.engine.token_bits import bits_of
from support.plain_sampling import plain_distribution

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def chosen(
    logits: torch.Tensor,
    temperatures: list[float],
    uniforms: list[float],
    filters: list[dict[str, Any]] | None = None,
) -> list[int]:
    tokens = torch.full((len(logits),), -1)
    samplings = [SamplingParams(**asked) for asked in filters or [{}] * len(logits)]
    lines = [[s.top_k for s in samplings], [s.top_p for s in samplings], [s.min_p for s in samplings]]
    draws = torch.tensor([temperatures, uniforms, *lines], dtype=torch.float64, device=DEVICE)
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
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2])).repeat(100, 1)
    uniforms = [(number + 0.5) / 100 for number in range(100)]
    drawn = chosen(logits, [1.0] * 100, uniforms)
    assert [drawn.count(token) for token in range(3)] == [50, 30, 20]


FILTERS: list[dict[str, Any]] = [
    {"top_p": 0.9},
    {"top_k": 40},
    {"min_p": 0.05},
    {"top_k": 30, "top_p": 0.5},
    {"min_p": 0.02, "top_p": 0.8},
    {"top_k": 200, "min_p": 0.001, "top_p": 0.95},
    {},
]

NEUTRAL = {"top_k": 0, "top_p": 1, "min_p": 0}


@pytest.mark.parametrize("scale", [0.5, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_choosing_when_rows_have_filters_then_tokens_are_torch_s(dtype: torch.dtype, scale: float) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = (torch.randn(3 * len(FILTERS), 700, generator=generator) * scale - 1.0).to(dtype)
    temperatures = [1.0, 0.6, 1.5] * len(FILTERS)
    uniforms = torch.rand(len(logits), generator=generator, dtype=torch.float64).tolist()
    filters = [asked for asked in FILTERS for _ in range(3)]
    drawn = chosen(logits, temperatures, uniforms, filters)
    expected = []
    for row, temperature, uniform, asked in zip(logits.float(), temperatures, uniforms, filters, strict=True):
        sampling, number = (
            SamplingParams(temperature=temperature, **asked),
            torch.tensor([uniform], dtype=torch.float64),
        )
        exactly = int(draw_exactly(row[None], sampling, number))
        shortly, suffices = draw_filtered(Shortlist.of(row[None], [sampling]), [sampling], number)
        assert not suffices[0] or int(shortly) == exactly
        expected.append(exactly)
    assert drawn == expected


def test_choosing_when_a_grammar_bars_most_tokens_then_those_left_are_drawn_as_by_torch() -> None:
    generator = torch.Generator().manual_seed(9)
    logits = torch.randn(2 * len(FILTERS), 700, generator=generator)
    for row, left in zip(logits, [[137], [4, 9, 640]] * len(FILTERS), strict=True):
        row[[token for token in range(700) if token not in left]] = -torch.inf  # most columns are empty
    uniforms = torch.rand(len(logits), generator=generator, dtype=torch.float64).tolist()
    filters = [asked for asked in FILTERS for _ in range(2)]
    expected = [
        int(draw_exactly(row[None], SamplingParams(**asked), torch.tensor([uniform], dtype=torch.float64)))
        for row, uniform, asked in zip(logits, uniforms, filters, strict=True)
    ]
    assert chosen(logits, [1.0] * len(logits), uniforms, filters) == expected
    assert chosen(logits[:2], [0.0] * 2, [0.0] * 2) == logits[:2].argmax(dim=1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [704, 5003])
def test_choosing_when_bits_say_what_may_come_then_tokens_are_those_of_rows_without_the_rest(
    vocab: int, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(vocab)
    filters = FILTERS + FILTERS
    num_rows, num_held = 20, len(filters)
    logits = (torch.randn(num_rows, vocab, generator=generator) * 3).to(dtype)
    places = torch.randperm(num_rows, generator=generator)[:num_held]
    may_come = torch.rand(num_held, vocab, generator=generator) < torch.tensor([[0.3], [0.01]]).repeat(len(FILTERS), 1)
    may_come[:, 33] = True
    may_come[2] = False
    may_come[2, vocab - 1] = True
    temperatures = [1.0, 0.7, 0.0, 1.3] * (num_held // 4) + [1.0] * (num_held % 4)
    uniforms = torch.rand(num_held, generator=generator, dtype=torch.float64).tolist()
    expected = chosen(logits[places].where(may_come, -torch.inf), temperatures, uniforms, filters)
    bits = [bits_of(row.nonzero().flatten().numpy(), vocab) for row in may_come]
    lines = [[float(asked.get(name, neutral)) for asked in filters] for name, neutral in NEUTRAL.items()]
    tokens = torch.full((num_rows,), -1, device=DEVICE)
    choose_held(logits.to(DEVICE), tokens, places.tolist(), bits, Draws(temperatures, uniforms, *lines))
    assert tokens[places.to(DEVICE)].tolist() == expected
    assert int((tokens == -1).sum()) == num_rows - num_held
    assert expected[2] == vocab - 1


def test_choosing_when_the_vocabulary_is_gpt_oss_s_then_filtered_tokens_are_torch_s() -> None:
    logits = (torch.randn(3, 201_088, generator=torch.Generator().manual_seed(5)) * 3).bfloat16()
    uniforms, asked = [0.2, 0.999, 0.6], [{"top_p": 0.9}, {"top_k": 50}, {"top_p": 0.5, "min_p": 0.01}]
    expected = [
        int(draw_exactly(row[None], SamplingParams(**filters), torch.tensor([uniform], dtype=torch.float64)))
        for row, uniform, filters in zip(logits.float(), uniforms, asked, strict=True)
    ]
    assert chosen(logits, [1.0] * 3, uniforms, asked) == expected


@pytest.mark.parametrize("asked", FILTERS[:-1], ids=str)
def test_choosing_when_a_filter_is_swept_then_what_it_leaves_out_is_never_drawn(asked: dict[str, Any]) -> None:
    logits = (torch.randn(300, generator=torch.Generator().manual_seed(3)) * 2).bfloat16()
    uniforms = [(number + 0.5) / 12 for number in range(12)]
    kept = plain_distribution(logits.tolist(), SamplingParams(**asked))
    drawn = chosen(logits.repeat(12, 1), [1.0] * 12, uniforms, [asked] * 12)
    least = min(float(logits[token]) for token in range(300) if kept[token])  # its equals stand or fall with it
    assert all(float(logits[token]) >= least for token in drawn)


def test_choosing_when_filters_leave_one_then_it_is_drawn_whatever_the_number() -> None:
    logits = torch.tensor([[-3.0, 0.5, -0.0, 2.0, 1.9] + [-40.0] * 200])
    for asked in ({"top_k": 1}, {"top_p": 0.0}, {"top_p": 1e-9}, {"min_p": 1.0}):
        assert chosen(logits.repeat(3, 1), [1.0] * 3, [0.0, 0.5, 1 - 2**-53], [asked] * 3) == [3, 3, 3]
    assert set(chosen(logits.repeat(9, 1), [9.0] * 9, [n / 9 for n in range(9)], [{"top_k": 3}] * 9)) == {1, 3, 4}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's
def test_choosing_when_a_row_holds_no_numbers_then_the_others_are_drawn_all_the_same() -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(3))
    asked = [{"top_p": 0.5, "top_k": 9}] * 3
    expected = chosen(logits, [1.0] * 3, [0.3, 0.5, 0.9], asked)
    logits[1] = torch.nan
    assert chosen(logits, [1.0] * 3, [0.3, 0.5, 0.9], asked)[::2] == expected[::2]
