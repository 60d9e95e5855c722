"""`gptoss make-checkpoint` from outside."""

from __future__ import annotations

import signal
import subprocess
import sys
import typing
from pathlib import Path

import torch

from gptoss_backend.demo.__main__ import DEMO, RANDOM_SEED
from gptoss_backend.demo.random_checkpoint import SHAPES, write_random_checkpoint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.weights import load_head
from gptoss_client.make_checkpoint import DEFAULT_SEED, ShapeName
from support.processes import wait_until

COMMAND = (sys.executable, "-m", "gptoss_client.cli", "make-checkpoint")


def gptoss(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((*COMMAND, *arguments), capture_output=True, text=True, timeout=60, check=False)


def test_command_when_it_names_shapes_and_a_seed_then_they_are_those_of_the_writer() -> None:
    assert set(typing.get_args(ShapeName)) == {*SHAPES, DEMO}
    assert DEFAULT_SEED == RANDOM_SEED


def test_make_when_a_shape_is_named_then_the_folder_holds_it_and_a_second_time_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "made"

    made = gptoss("--shape", "tiny", "--seed", "7", str(folder))
    again = gptoss("--shape", "tiny", str(folder))

    assert made.returncode == 0
    assert made.stdout.startswith(f"gpt-oss-tiny: random weights written to {folder} in ")
    assert ModelConfig.from_folder(folder).num_layers == SHAPES["tiny"].num_layers
    assert (again.returncode, again.stderr) == (
        2,
        f"error: {folder} is there already: choose another place, or remove it\n",
    )


def test_make_when_a_head_is_asked_for_then_it_fits_the_checkpoint(tmp_path: Path) -> None:
    write_random_checkpoint(tmp_path / "made", SHAPES["tiny"], seed=1, name="tiny")

    head = gptoss("--head-for", str(tmp_path / "made"), str(tmp_path / "head"))
    neither = gptoss(str(tmp_path / "other"))

    assert head.stdout.startswith(f"draft head for {tmp_path / 'made'}: random weights written to {tmp_path / 'head'}")
    config, weights = load_head(
        tmp_path / "head", ModelConfig.from_folder(tmp_path / "made"), torch.float32, torch.device("cpu")
    )
    assert (config.hidden_size, len(weights.targets)) == (SHAPES["tiny"].hidden_size, 32000)
    assert (neither.returncode, neither.stderr) == (2, "error: name either --shape or --head-for\n")


def test_make_when_its_place_cannot_be_written_then_says_why_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    failed = gptoss("--shape", "tiny", str(tmp_path / "file" / "made"))

    assert failed.returncode == 1
    assert failed.stderr.startswith(f"error: could not make a checkpoint in {tmp_path / 'file' / 'made'}: ")
    assert "Traceback" not in failed.stderr


def test_make_when_interrupted_then_leaves_nothing_behind(tmp_path: Path) -> None:
    command = subprocess.Popen((*COMMAND, "--shape", "small", str(tmp_path / "made")), stdout=subprocess.PIPE)
    try:
        wait_until((tmp_path / "made.partial").exists, 30)
        command.send_signal(signal.SIGINT)
        command.communicate(timeout=30)
    finally:
        command.kill()
        command.wait()

    assert command.returncode == 130
    assert list(tmp_path.iterdir()) == []
