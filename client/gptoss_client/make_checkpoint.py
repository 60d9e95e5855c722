"""Checkpoints made here, in a process of their own: the client never loads torch.

Stage: `gptoss make-checkpoint`, and the first start of the demo.
Owns: that process, the progress that a person sees, and that an interrupted one leaves nothing half made.
Does not know: what is in a checkpoint.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from gptoss_client.errors import CommandError, UsageError
from gptoss_client.stop_signal import StopSignal

ShapeName = Literal["20b", "120b", "small", "tiny", "demo"]
ExpertFormat = Literal["mxfp4", "bfloat16"]
DEFAULT_SEED: Final = 20


@dataclass(frozen=True, slots=True)
class CheckpointOrder:
    """A checkpoint to be made."""

    folder: Path
    shape: ShapeName | None
    seed: int = DEFAULT_SEED
    experts: ExpertFormat = "mxfp4"
    head_for: str | None = None
    """A checkpoint; in place of a shape."""

    @property
    def what(self) -> str:
        """What is made, in words."""
        return f"draft head for {self.head_for}" if self.shape is None else f"gpt-oss-{self.shape}"

    @property
    def command(self) -> tuple[str, ...]:
        """What makes it."""
        made = ("--head-for", str(self.head_for)) if self.shape is None else ("--shape", self.shape)
        options = ("--seed", str(self.seed), "--experts", self.experts, "--progress")
        return (sys.executable, "-m", "gptoss_backend.demo", str(self.folder), *made, *options)


def make_checkpoint(order: CheckpointOrder, environment: Mapping[str, str], stop: StopSignal, console: Console) -> bool:
    """Make a checkpoint; returns False where a stop was asked for first.

    Blocks. Raises CommandError with the reason.
    """
    _check_can_be_made(order)
    started = time.monotonic()
    # its own session: Ctrl-C is for us, who ask it to end in order
    with subprocess.Popen(
        order.command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as writer:
        with _bar(console, order.what) as bar:
            _follow(writer, bar, stop)
        words = writer.stderr.read() if writer.stderr else ""
    if stop.requested:
        return False
    if writer.returncode:
        reason = words.strip().rpartition("\n")[2] or f"exit status {writer.returncode}"
        raise CommandError(f"could not make a checkpoint in {order.folder}: {reason}")
    elapsed_s = time.monotonic() - started
    kind = "trained" if order.shape == "demo" else "random"
    console.print(f"{order.what}: {kind} weights written to {order.folder} in {elapsed_s:.1f} s")
    return True


def _check_can_be_made(order: CheckpointOrder) -> None:
    """Raise UsageError where the order is at odds with itself, or with what is there."""
    if (order.shape is None) == (order.head_for is None):
        raise UsageError("name either --shape or --head-for")
    if order.shape == "demo" and order != CheckpointOrder(order.folder, "demo"):
        raise UsageError("the demo's weights are trained: --seed and --experts are for random ones")
    if order.folder.exists():
        raise UsageError(f"{order.folder} is there already: choose another place, or remove it")


def _follow(writer: subprocess.Popen[str], bar: Callable[[int, int], None], stop: StopSignal) -> None:
    """Show what the writer tells until it ends; ask it to end once a stop is wished for."""
    for line in writer.stdout or ():
        done, total = map(int, line.split())
        bar(done, total)
        if stop.requested:
            writer.terminate()


@contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
