"""Which cards an engine asks of, and takes, over a stand-in for torch's CUDA."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gptoss_backend.demo.random_checkpoint import SHAPES, config_document
from gptoss_backend.engine import loading
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.layout import PIPELINE
from gptoss_backend.engine.placement.options import PlacementOptions

GIB = 2**30
DEVICE = torch.device("cuda", 0)


class Spread(Exception):  # noqa: N818 (what would be started, not a fault)
    """A spread model's cluster, in place of the model."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a checkpoint of 20B says of itself."""
    (tmp_path / "config.json").write_text(json.dumps(config_document(SHAPES["20b"], "test")), encoding="utf-8")
    index = {"weight_map": {"model.layers.0.mlp.experts.down_proj_blocks": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return tmp_path


def cards(monkeypatch: pytest.MonkeyPatch, *gib: float) -> list[torch.device]:
    """Give torch cards of these sizes; returns those that were asked what is free, which puts a context there."""
    asked: list[torch.device] = []

    def free(device: torch.device) -> tuple[int, int]:
        asked.append(device)
        return int(gib[device.index] * GIB), int(gib[device.index] * GIB)

    def start(folder: Path, shards: object, cluster: Cluster, *_: object, **__: object) -> None:
        raise Spread(cluster)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gib))
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda index: f"card of {gib[getattr(index, 'index', index)]} GiB"
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=int(gib[index] * GIB))
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(loading, "DistributedModel", start)
    return asked


def test_cards_when_an_engine_looks_at_them_then_it_takes_a_context_on_its_own_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = cards(monkeypatch, 12.0, 12.0, 12.0)
    with pytest.raises(Spread) as found:
        load_model(folder, device=DEVICE)
    assert asked == [DEVICE]
    assert found.value.cluster.devices == (torch.device("cuda", 0), torch.device("cuda", 1))


def test_cards_when_one_in_the_middle_is_too_small_then_the_ranks_are_on_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, 12.0, 2.0, 12.0)
    with pytest.raises(Spread) as found:
        load_model(folder, device=DEVICE, placement=PlacementOptions(mode=PIPELINE, num_devices=2))
    assert found.value.cluster.devices == (torch.device("cuda", 0), torch.device("cuda", 2))


def test_cards_when_there_are_more_than_are_needed_then_the_first_is_taken_whatever_else_is_on_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, 12.0, 12.0, 12.0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(10.5 * GIB), 12 * GIB))
    with pytest.raises(Spread) as found:
        load_model(folder, device=DEVICE)
    assert found.value.cluster.devices[0] == DEVICE


def test_cards_when_the_first_is_too_small_then_the_sentence_says_which_to_show(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, 2.0, 24.0)
    with pytest.raises(EngineError, match=r"the first card, card of 2.0 GiB, .* CUDA_VISIBLE_DEVICES show the others"):
        load_model(folder, device=DEVICE)
