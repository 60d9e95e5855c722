"""A demo checkpoint that an earlier version made is made anew; nothing else is ever removed."""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

import pytest

from gptoss_backend.demo import naming
from gptoss_backend.demo.naming import DEMO_NAME, RANDOM_DEMO_NAME, WEIGHTS_KEY, weights_digest
from gptoss_backend.settings import Settings
from gptoss_client import checkpoint
from gptoss_client.checkpoint import ensure_checkpoints
from gptoss_client.errors import CommandError
from gptoss_client.make_checkpoint import CheckpointOrder
from gptoss_client.run_state import RunDirectory
from gptoss_client.stop_signal import StopSignal


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ship some weights."""
    path = tmp_path / "shipped.safetensors"
    path.write_bytes(b"weights")
    monkeypatch.setattr(naming, "WEIGHTS_FILE", path)
    return path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Note the folders that are made, and make none."""
    orders: list[Path] = []

    def make(order: CheckpointOrder, *_: object) -> bool:
        assert not order.folder.exists()
        orders.append(order.folder)
        return True

    monkeypatch.setattr(checkpoint, "make_checkpoint", make)
    return orders


def demo_folder(tmp_path: Path, **config: str) -> Path:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def serve(folder: Path, tmp_path: Path) -> None:
    settings = Settings(model="demo", checkpoints={"demo": str(folder)})
    with StopSignal() as stop:
        ensure_checkpoints(settings, RunDirectory(tmp_path / "run"), stop)


@pytest.mark.parametrize("name", [DEMO_NAME, RANDOM_DEMO_NAME])
def test_serve_when_the_demo_is_of_other_weights_then_it_is_made_anew(
    name: str, tmp_path: Path, weights: Path, made: list[Path]
) -> None:
    folder = demo_folder(tmp_path, _name_or_path=name, **{WEIGHTS_KEY: "another"})

    serve(folder, tmp_path)

    assert made == [folder]


def test_serve_when_the_demo_is_of_the_shipped_weights_then_it_stays(
    tmp_path: Path, weights: Path, made: list[Path]
) -> None:
    folder = demo_folder(tmp_path, _name_or_path=DEMO_NAME, **{WEIGHTS_KEY: weights_digest(weights)})

    serve(folder, tmp_path)

    assert made == []
    assert folder.is_dir()


def test_serve_when_the_folder_holds_another_checkpoint_then_it_stays(
    tmp_path: Path, weights: Path, made: list[Path]
) -> None:
    folder = demo_folder(tmp_path, _name_or_path="somebody's own")

    serve(folder, tmp_path)

    assert made == []
    assert folder.is_dir()


def test_serve_when_the_demo_cannot_be_made_then_a_sentence_says_why_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "demo"

    with pytest.raises(CommandError) as raised:
        serve(folder, tmp_path)

    assert str(raised.value).startswith(f"could not make a checkpoint in {folder}: ")
    assert "--checkpoint" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_serve_when_the_outdated_demo_cannot_be_removed_then_a_sentence_says_why_and_what_to_do(
    tmp_path: Path, weights: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    folder = demo_folder(tmp_path, _name_or_path=DEMO_NAME, **{WEIGHTS_KEY: "another"})

    with pytest.raises(CommandError, match=r"Permission denied.*--checkpoint"):
        serve(folder, tmp_path)

    assert made == []


def test_serve_when_the_shipped_weights_are_missing_then_a_sentence_names_them(
    tmp_path: Path, weights: Path, made: list[Path]
) -> None:
    folder = demo_folder(tmp_path, _name_or_path=DEMO_NAME, **{WEIGHTS_KEY: "another"})
    weights.unlink()

    with pytest.raises(CommandError, match=re.escape(str(weights))):
        serve(folder, tmp_path)

    assert folder.is_dir()
