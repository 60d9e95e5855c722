"""Random checkpoints: their numbers, and what stays where the writing fails."""

from __future__ import annotations

import math
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptoss_backend.demo.random_checkpoint import Shape, whole_folder, write_random_checkpoint
from gptoss_backend.engine.errors import CheckpointError
from gptoss_backend.engine.mxfp4 import unpack_mxfp4

SHAPE = Shape(
    hidden_size=128,
    num_layers=1,
    num_experts=4,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    head_dim=16,
    vocab_size=300,
)
EXPERTS = "model.layers.0.mlp.experts"


def layer(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(("name", "columns"), [("gate_up_proj", 128), ("down_proj", 96)])
def test_experts_when_unpacked_then_their_spread_keeps_activations_of_size_one(
    tmp_path: Path, name: str, columns: int
) -> None:
    write_random_checkpoint(tmp_path / "made", SHAPE, seed=3, name="a test")
    tensors = layer(tmp_path / "made")

    values = unpack_mxfp4(tensors[f"{EXPERTS}.{name}_blocks"], tensors[f"{EXPERTS}.{name}_scales"], torch.float32)

    assert values.shape[-1] == columns
    assert values.std().item() == pytest.approx(1 / math.sqrt(columns), rel=0.02)
    assert abs(values.mean().item()) < 0.02 * values.std().item()


def test_experts_when_stored_as_bfloat16_then_they_are_the_same_numbers(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "packed", SHAPE, seed=3, name="a test")
    write_random_checkpoint(tmp_path / "plain", SHAPE, seed=3, name="a test", experts="bfloat16")
    packed, plain = layer(tmp_path / "packed"), layer(tmp_path / "plain")

    for name in ("gate_up_proj", "down_proj"):
        blocks, scales = packed[f"{EXPERTS}.{name}_blocks"], packed[f"{EXPERTS}.{name}_scales"]
        assert torch.equal(plain[f"{EXPERTS}.{name}"], unpack_mxfp4(blocks, scales, torch.bfloat16).transpose(1, 2))


def test_bytes_when_written_by_one_thread_or_by_several_then_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cores in (1, 4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        write_random_checkpoint(tmp_path / str(cores), SHAPE, seed=3, name="a test")

    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "4" / path.name).read_bytes()


def test_progress_when_written_then_ends_with_all_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    write_random_checkpoint(
        tmp_path / "made", SHAPE, seed=3, name="a test", progress=lambda *counts: told.append(counts)
    )

    weights = sum(t.nbytes for path in (tmp_path / "made").glob("*.safetensors") for t in load_file(path).values())
    assert told[-1] == (weights, weights)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_write_when_it_is_interrupted_then_nothing_stays(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "made", SHAPE, seed=3, name="a test", progress=interrupt)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_write_when_another_writes_the_same_folder_then_it_waits_and_takes_over_where_that_one_fails(
    tmp_path: Path, fails: bool
) -> None:
    folder, begun, may_end = tmp_path / "made", threading.Event(), threading.Event()

    def write_slowly() -> None:
        with suppress(FileNotFoundError), whole_folder(folder, 10) as partial:
            (partial / "first").touch()
            begun.set()
            may_end.wait(10)
            if fails:
                raise FileNotFoundError

    def write() -> str:
        try:
            with whole_folder(folder, 10) as partial:
                (partial / "second").touch()
        except FileExistsError:
            return "was there"
        return "written"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(write_slowly)
        assert begun.wait(10)
        second = pool.submit(write)
        with pytest.raises(TimeoutError):
            second.result(0.2)
        may_end.set()
        first.result(10)
        assert second.result(10) == ("written" if fails else "was there")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert [path.name for path in folder.iterdir()] == ["second" if fails else "first"]


def test_write_when_a_writer_was_killed_then_what_it_left_is_gone(tmp_path: Path) -> None:
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "left").touch()
    with whole_folder(tmp_path / "made", 10) as partial:
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["new"]


def test_write_when_the_disk_is_too_small_then_says_so_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))

    with pytest.raises(CheckpointError, match=r"takes 0\.0 GB, but only 0\.0 GB are free in"):
        write_random_checkpoint(tmp_path / "made", SHAPE, seed=3, name="a test")

    assert list(tmp_path.iterdir()) == []
