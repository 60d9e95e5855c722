"""Where a model is put, and what it takes there: no device is needed to say so."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import Weights, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.placement.choice import Card, choose_placement
from gptoss_backend.engine.placement.layout import SpreadMode, divide
from gptoss_backend.engine.placement.memory_plan import Formats, plan_memory
from gptoss_backend.engine.shard import Shard
from gptoss_backend.environment import show_cards, with_card_order
from support.shapes import published_config
from support.stepping import CPU

GIB = 2**30
# what the drivers report in all
T4, RTX_3060, RTX_4060_TI, RTX_4090, H100, GT_1030 = (
    Card.of_total(name, int(size * GIB))
    for name, size in (
        ("T4", 15.0),
        ("RTX 3060", 11.8),
        ("RTX 4060 Ti", 15.99),
        ("RTX 4090", 23.6),
        ("H100", 79.1),
        ("GT 1030", 2.0),
    )
)


@pytest.mark.parametrize(
    ("size", "cards", "mode", "num_devices"),
    [
        ("20b", [RTX_4060_TI], "single", 1),
        ("20b", [T4] * 2, "pipeline", 2),
        ("20b", [RTX_4090] * 4, "single", 1),
        ("20b", [RTX_3060] * 4, "pipeline", 2),
        ("120b", [H100], "single", 1),
        ("120b", [H100] * 8, "single", 1),
        ("120b", [RTX_4090] * 4, "tensor", 4),
        ("120b", [RTX_4090] * 7, "tensor", 4),
        ("120b", [RTX_4090] * 3, "pipeline", 3),
        ("120b", [RTX_4060_TI] * 6, "pipeline", 6),
        ("120b", [T4] * 8, "tensor", 8),
    ],
)
def test_auto_when_cards_differ_then_the_cheapest_that_fits_is_chosen(
    size: str, cards: list[Card], mode: str, num_devices: int
) -> None:
    choice = choose_placement(published_config(size), cards)
    assert (choice.mode, len(choice.shards)) == (mode, num_devices)
    assert cards[0].name in choice.reason
    assert choice.cards == tuple(range(len(cards) if mode == "single" else num_devices))


@pytest.mark.parametrize(
    ("size", "cards", "mode", "chosen", "words"),
    [
        (
            "20b",
            [RTX_4090, GT_1030],
            "single",
            (0,),
            "one RTX 4090 .* each such card .*; left out: 0.97 GiB on GT 1030$",
        ),
        ("20b", [RTX_4090, RTX_3060], "single", (0,), "left out: 10.48 GiB on RTX 3060$"),
        ("20b", [H100, GT_1030, RTX_4090], "single", (0, 2), "one RTX 4090 with room for .* GT 1030$"),
        ("20b", [GT_1030, RTX_3060, RTX_3060], "pipeline", (1, 2), "one RTX 3060 of 10.80 GiB; .* GT 1030$"),
        ("120b", [RTX_3060, *[RTX_4090] * 4], "tensor", (1, 2, 3, 4), "left out: 10.48 GiB on RTX 3060$"),
    ],
)
def test_auto_when_a_card_is_too_small_then_it_is_left_out_and_said_so(
    size: str, cards: list[Card], mode: str, chosen: tuple[int, ...], words: str
) -> None:
    choice = choose_placement(published_config(size), cards)
    assert (choice.mode, choice.cards) == (mode, chosen)
    assert re.search(words, choice.reason), choice.reason


def test_spread_when_it_is_asked_for_over_cards_too_small_then_the_sentence_is_about_them() -> None:
    with pytest.raises(
        EngineError, match=r"on each of 2 cards .* 10\.48 GiB on RTX 3060 \(2 such\).* CUDA_VISIBLE_DEVICES"
    ):
        choose_placement(published_config("120b"), [RTX_3060] * 4, mode="tensor", num_devices=2)


def test_auto_when_nothing_fits_then_the_sentence_has_the_figures() -> None:
    with pytest.raises(
        EngineError,
        match=r"needs 62\.05 GiB on one card \(60\.77 GiB of weights.* room for 21\.92 GiB on RTX 4090 \(2 such\)",
    ):
        choose_placement(published_config("120b"), [RTX_4090] * 2)
    with pytest.raises(EngineError, match="there is no GPU"):
        choose_placement(published_config("20b"), [])
    with pytest.raises(EngineError, match=r"num_devices is 3, but there are 2 GPUs"):
        choose_placement(published_config("20b"), [RTX_4090] * 2, num_devices=3)


def test_single_when_it_is_asked_for_and_does_not_fit_then_it_is_refused() -> None:
    with pytest.raises(EngineError, match=r"^the model needs 14\.00 GiB on one card"):
        choose_placement(published_config("20b"), [RTX_3060] * 2, mode="single")


def test_plan_when_120b_is_on_four_cards_then_each_holds_less_than_15_gib() -> None:
    choice = choose_placement(published_config("120b"), [RTX_4090] * 4, mode="tensor")
    assert all(plan.weight_bytes < 15 * GIB for plan in choice.plans)
    assert max(plan.weight_bytes for plan in choice.plans) < 1.001 * min(plan.weight_bytes for plan in choice.plans)
    assert len(choice.lines) == 4


def test_plan_when_published_models_are_on_one_card_then_there_is_the_room_that_we_promise() -> None:
    small, large = (choose_placement(published_config(size), [H100]).plans[0] for size in ("20b", "120b"))
    assert small.needed(8192) < RTX_4060_TI.room_bytes, "16 GB cards"
    assert small.needed(8192) > T4.room_bytes, "of which its driver takes one"
    assert large.num_tokens_in(H100.usable_bytes) > 100_000


@pytest.mark.parametrize(("mode", "num_devices"), [("pipeline", 1), ("pipeline", 2), ("pipeline", 3), ("tensor", 2)])
@pytest.mark.parametrize("packed", [True, False])
def test_plan_when_a_shard_is_read_then_it_takes_what_was_planned(
    mode: SpreadMode, num_devices: int, packed: bool, tmp_path: Path
) -> None:
    shape = Shape(
        hidden_size=64, num_layers=4, num_experts=8, num_heads=4, num_kv_heads=2, intermediate_size=96, vocab_size=999
    )
    folder = tmp_path / "checkpoint"
    write_random_checkpoint(folder, shape, seed=1, name="test")
    config = ModelConfig.from_folder(folder)
    shards = divide(config, mode, num_devices) if num_devices > 1 else (Shard.of_all(config),)
    for shard in shards:
        weights = load_weights(folder, shard, torch.bfloat16, CPU, packed=packed)
        plan = plan_memory(shard, Formats(packed=packed))
        on_host = weights.embedding.nbytes if weights.embedding is not None and shard.num_parts > 1 else 0
        assert plan.weight_bytes == size_of(weights) - on_host


def size_of(weights: Weights) -> int:
    def add(part: object) -> int:
        if isinstance(part, torch.Tensor | PackedMatrices):
            return part.nbytes
        if dataclasses.is_dataclass(part):
            return sum(add(getattr(part, field.name)) for field in dataclasses.fields(part))
        return sum(map(add, part)) if isinstance(part, tuple) else 0

    return add(weights)


@pytest.mark.parametrize(
    ("outer", "device_id", "bound"),
    [(None, 2, "2"), ("", 1, "1"), ("3,5", 1, "5"), (" GPU-a1 , GPU-b2", 0, "GPU-a1")],
)
def test_bind_when_some_cards_are_hidden_already_then_numbers_count_those_that_are_seen(
    outer: str | None, device_id: int, bound: str
) -> None:
    environ = {} if outer is None else {"CUDA_VISIBLE_DEVICES": outer}
    show_cards([device_id], environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": bound}
    # as a stub under a tritonserver that sees one card: to Triton that is number 0
    show_cards([0], environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": bound}


def test_cards_when_several_are_shown_then_in_that_order_and_numbered_as_the_driver_does() -> None:
    environ = with_card_order({"CUDA_VISIBLE_DEVICES": "4,5,7"})
    show_cards([0, 2], environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": "4,7", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert with_card_order({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"})["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"
