"""Which variant of the models' configs a machine calls for, over a stand-in for the driver's nvidia-smi."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gptoss_backend.demo.random_checkpoint import SHAPES, config_document
from gptoss_backend.engine.computing import Computing
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.memory_plan import Formats
from gptoss_backend.settings import EngineSettings, Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client import join
from gptoss_client.cli import app
from gptoss_client.errors import DriverError, UsageError
from gptoss_client.placing import Placing, place, place_in_one, with_num_replicas
from gptoss_client.plan_models import published_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a checkpoint of 20B says of itself and which tensors it names; nothing more is read before the start."""
    folder = tmp_path / "20b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config_document(SHAPES["20b"], "test")), encoding="utf-8")
    name_experts(folder, "down_proj_blocks")
    return folder


def name_experts(folder: Path, tensor: str) -> None:
    index = {"weight_map": {f"model.layers.0.mlp.experts.{tensor}": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def settings_for(folder: Path, **placement: object) -> Settings:
    return load_settings(
        {"model": "20b", "checkpoints": {"20b": str(folder)}, "placement": placement}, environ={}, config=None
    )


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *cards: tuple[str, float]) -> None:
    """Put a driver in place that tells of these cards."""
    sizes = [f"{int(gib * 1024)}, {int(gib * 1024)}" for _, gib in cards]
    rows = [
        f"{i}, {name}, 570.1, {size}, GPU-{i}f6a" for i, ((name, _), size) in enumerate(zip(cards, sizes, strict=True))
    ]
    driver = tmp_path / "bin" / "nvidia-smi"
    driver.parent.mkdir()
    listing = "\n".join(f"GPU {i}: {name}" for i, (name, _) in enumerate(cards))
    driver.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -L ]; then cat <<'E'\n{listing}\nE\nelse cat <<'E'\n" + "\n".join(rows) + "\nE\nfi\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{driver.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("cards", "placement", "variant"),
    [
        ([("NVIDIA GeForce RTX 4090", 23.6)], {}, "replicas"),
        ([("NVIDIA GeForce RTX 3060", 11.8)] * 2, {}, "spread"),
        ([("NVIDIA GeForce RTX 4090", 23.6)] * 2, {"mode": "tensor"}, "spread"),
    ],
)
def test_variant_when_there_are_cards_then_it_is_that_of_the_placement(
    cards: list[tuple[str, float]],
    placement: dict[str, object],
    variant: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(tmp_path, monkeypatch, *cards)
    assert place_in_one(settings_for(folder, **placement), dict(os.environ)).variant == variant


def test_variant_when_the_driver_fails_then_a_model_is_not_put_on_the_processor_unasked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch)
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU is lost'; exit 15\n")

    with pytest.raises(DriverError, match=r"GPU is lost.*server\.triton_config_name to cpu"):
        place_in_one(settings_for(folder), dict(os.environ))
    assert place_in_one(settings_for(folder), dict(os.environ) | {"CUDA_VISIBLE_DEVICES": ""}).variant == "cpu"
    assert place_in_one(load_settings({"model": "demo"}, environ={}), dict(os.environ)).variant == "cpu"


RTX_4090, RTX_3060 = ("NVIDIA GeForce RTX 4090", 23.6), ("NVIDIA GeForce RTX 3060", 11.8)
GT_1030 = ("NVIDIA GeForce GT 1030", 2.0)
GT, SMALL = "GPU {} (NVIDIA GeForce GT 1030)", "GPU {} (NVIDIA GeForce RTX 3060)"
CARDS = [RTX_4090] * 4
EACH = ((0,), (1,), (2,), (3,))


@pytest.mark.parametrize(
    ("cards", "visible", "wanted", "placing"),
    [
        (CARDS[:1], None, None, Placing("replicas", num_cards=1)),
        (CARDS, None, None, Placing("replicas", 4, EACH[:4], num_cards=4)),
        (CARDS, None, 3, Placing("replicas", 3, EACH[:3], num_cards=4)),
        (CARDS, None, 1, Placing("replicas", 1, EACH[:1], num_cards=4)),
        (CARDS, "2,0", None, Placing("replicas", 2, EACH[:2], num_cards=2)),
        (CARDS, "GPU-2f6a, GPU-1f", None, Placing("replicas", 2, EACH[:2], num_cards=2)),
        (CARDS, "GPU-2f6a", None, Placing("replicas", num_cards=1)),
        (CARDS, "MIG-5c21", None, Placing("replicas", num_cards=1)),
        (CARDS, "", None, Placing("cpu")),
        (CARDS, "", 2, Placing("cpu", 2)),
        ([RTX_3060] * 2, None, None, Placing("spread", num_cards=2)),
        ([RTX_3060] * 4, None, None, Placing("spread", 2, ((0, 1), (2, 3)), num_cards=4)),
        ([RTX_3060] * 4, None, 1, Placing("spread", 1, ((0, 1),), (SMALL.format(2), SMALL.format(3)), 4)),
        ([RTX_3060] * 5, None, None, Placing("spread", 2, ((0, 1), (2, 3)), (SMALL.format(4),), 5)),
        ([RTX_3060] * 5, "4,2,1,0", None, Placing("spread", 2, ((0, 1), (2, 3)), num_cards=4)),
    ],
)
def test_place_when_a_replica_fits_a_card_then_there_is_one_for_each_that_can_be_used(
    cards: list[tuple[str, float]],
    visible: str | None,
    wanted: int | None,
    placing: Placing,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(tmp_path, monkeypatch, *cards)
    environment = dict(os.environ) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    found = place(with_replicas(settings_for(folder), wanted), environment)
    assert found == placing
    # what the start has written down leads to the same
    assert place(with_replicas(settings_for(folder), found.num_replicas), environment) == placing


@pytest.mark.parametrize(
    ("cards", "visible", "placing"),
    [
        ([RTX_4090, GT_1030], None, Placing("replicas", 1, ((0,),), (GT.format(1),), 2)),
        ([GT_1030, RTX_4090, RTX_4090], None, Placing("replicas", 2, ((1,), (2,)), (GT.format(0),), 3)),
        ([GT_1030, RTX_4090, RTX_4090], "2,0", Placing("replicas", 1, ((0,),), (GT.format(0),), 2)),
        ([GT_1030, RTX_4090], "GPU-1f6a,GPU-0f6a", Placing("replicas", 1, ((0,),), (GT.format(0),), 2)),
        ([RTX_4090, RTX_3060], None, Placing("replicas", 1, ((0,),), (f"GPU 1 ({RTX_3060[0]})",), 2)),
        ([RTX_3060, GT_1030, RTX_3060], None, Placing("spread", 1, ((0, 2),), (GT.format(1),), 3)),
    ],
)
def test_place_when_a_card_is_too_small_then_no_process_sees_it(
    cards: list[tuple[str, float]],
    visible: str | None,
    placing: Placing,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(tmp_path, monkeypatch, *cards)
    environment = dict(os.environ) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert place(settings_for(folder), environment) == placing
    assert placing.num_cards_of(0) == len(placing.cards_of(0)) == (2 if placing.variant == "spread" else 1)


def with_replicas(settings: Settings, number: int | None) -> Settings:
    return settings.model_copy(update={"server": settings.server.model_copy(update={"num_replicas": number})})


@pytest.mark.parametrize(
    ("placement", "visible", "sentence"),
    [
        ({}, None, "server.num_replicas is 5, but the GPUs that can be used are 4"),
        ({"mode": "tensor", "num_devices": 2}, None, "server.num_replicas is 5, but the GPUs hold 2, each over 2 of"),
        (
            {"mode": "tensor", "num_devices": 2, "rendezvous": "h:1"},
            None,
            "server.num_replicas is 5, but one engine is spread over several devices, and placement.rendezvous is one",
        ),
        (
            {"mode": "pipeline", "num_devices": 2, "num_nodes": 2, "rendezvous": "h:1", "secret": "s"},
            "",
            "over several hosts there is one",
        ),
    ],
)
def test_place_when_so_many_replicas_cannot_be_then_a_sentence_says_why(
    placement: dict[str, object],
    visible: str | None,
    sentence: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(tmp_path, monkeypatch, *CARDS)
    environment = dict(os.environ) | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    with pytest.raises(UsageError, match=sentence):
        place(with_replicas(settings_for(folder, **placement), 5), environment)


def test_place_when_cards_are_named_in_a_way_unknown_then_spread_engines_do_not_share_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, *[RTX_3060] * 4)
    environment = dict(os.environ) | {"CUDA_VISIBLE_DEVICES": "MIG-5c21,MIG-5c22"}
    assert place(settings_for(folder), environment) == Placing("spread", num_cards=2)
    with pytest.raises(UsageError, match="name whole ones in CUDA_VISIBLE_DEVICES"):
        place(with_replicas(settings_for(folder), 2), environment)


def test_place_when_the_variant_is_named_or_the_tritonservers_are_elsewhere_then_it_is_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, *CARDS)
    for server, placing in (
        ({"triton_config_name": "mine"}, Placing("mine", num_cards=4)),
        ({"triton_config_name": "replicas"}, Placing("replicas", 4, EACH[:4], num_cards=4)),
        ({"triton_replicas": ["10.0.0.1:8001"]}, Placing("replicas", num_cards=4)),
    ):
        settings = settings_for(folder)
        settings = settings.model_copy(update={"server": settings.server.model_copy(update=server)})
        assert place(settings, dict(os.environ)) == placing


def test_replicas_when_resolved_then_each_has_its_share_of_the_threads_unless_they_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    tree = {"model": "demo", "server": {"num_replicas": 3}}
    resolved = with_num_replicas(load_settings(tree, environ={}), {})
    assert (resolved.server.num_tritonservers, resolved.engine.num_threads) == (3, 2)
    asked = load_settings(tree | {"engine": {"num_threads": 5}}, environ={})
    assert with_num_replicas(asked, {}).engine.num_threads == 5
    spread = {"placement": {"mode": "tensor", "num_devices": 2}, "server": {"num_replicas": 2}}
    divided = with_num_replicas(load_settings({"model": "demo"} | spread, environ={}), {})
    assert (divided.server.num_tritonservers, divided.engine.num_threads) == (2, 2)
    alone = with_num_replicas(load_settings({"model": "demo"}, environ={}), {})
    assert (alone.server.num_replicas, alone.engine.num_threads) == (1, None)


@pytest.mark.parametrize(
    ("variant", "cards", "on_gpus"), [(None, 0, False), (None, 1, True), ("spread", 1, True), ("cpu", 1, False)]
)
def test_join_when_it_chooses_devices_then_by_the_variant_and_what_is_there(
    monkeypatch: pytest.MonkeyPatch, variant: str | None, cards: int, on_gpus: bool
) -> None:
    monkeypatch.setattr(join, "has_nvidia_gpu", lambda environment: bool(cards))
    settings = load_settings({"server": {"triton_config_name": variant}}, environ={})
    assert join._on_gpus(settings) is on_gpus


def test_join_when_the_variant_is_for_gpus_and_there_are_none_then_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(join, "has_nvidia_gpu", lambda environment: False)
    settings = load_settings({"server": {"triton_config_name": "spread"}}, environ={})
    with pytest.raises(UsageError, match="is for GPUs, and this host shows none"):
        join._on_gpus(settings)


def test_variant_when_the_files_are_not_in_mxfp4_then_they_outweigh_config_json(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, *[("NVIDIA GeForce RTX 4090", 23.6)] * 4)
    assert place_in_one(settings_for(folder), dict(os.environ)).variant == "replicas"
    name_experts(folder, "down_proj")
    assert place_in_one(settings_for(folder), dict(os.environ)).variant == "spread"


@pytest.mark.parametrize(
    "engine",
    [
        {},
        {"dtype": "float32"},
        {"dense_weights": "int8"},
        {"experts": "unpacked"},
        {"kv_cache_dtype": "fp8", "dtype": "float16", "dense_weights": "int8"},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_packed_experts", [True, False])
def test_formats_when_the_server_starts_then_they_are_those_that_the_engine_computes_in(
    engine: dict[str, Any], has_packed_experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    told = Formats.on_gpu(EngineSettings(**engine), has_packed_experts=has_packed_experts)
    assert told == Formats.on_gpu(EngineOptions(**engine), has_packed_experts=has_packed_experts)
    computing = Computing.choose(
        published_config("20b"),
        torch.device("cuda", 0),
        EngineOptions(**engine),
        is_alone=True,
        has_packed_experts=has_packed_experts,
    )
    kept = (computing.precision.dtype.itemsize, computing.packed, computing.cache_dtype.itemsize, computing.eight_bit)
    assert kept == (told.element_size, told.packed, told.kv_element_size or told.element_size, told.eight_bit)


def test_variant_when_no_card_holds_the_model_then_it_is_refused_with_the_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, monkeypatch, ("NVIDIA GeForce RTX 3060", 11.8))
    with pytest.raises(
        UsageError, match=r"the model needs 14\.00 GiB on one card .* 10\.48 GiB on NVIDIA GeForce RTX 3060"
    ):
        place_in_one(settings_for(folder), dict(os.environ))


@pytest.mark.parametrize(
    ("placement", "node_rank", "sentence"),
    [
        ({}, 1, "joining needs the placement settings of the first node"),
        (
            {"num_nodes": 2, "num_devices": 2, "rendezvous": "h:1", "secret": "s", "mode": "tensor"},
            2,
            "--node-rank is 2, but 1 to 1 join",
        ),
    ],
)
def test_join_when_it_cannot_then_a_sentence_says_why(
    placement: dict[str, object], node_rank: int, sentence: str, folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"placement": placement}), encoding="utf-8")
    options = ["join", "--node-rank", str(node_rank), "--config", str(config), "--checkpoint", str(folder)]
    result = CliRunner().invoke(app, [*options, "--model", "20b"])
    assert isinstance(result.exception, UsageError)
    assert sentence in str(result.exception)
