"""`gptoss pull` and `gptoss make-checkpoint`: their options, and what is told of how they ended.

Stage: the edge between a person and the checkpoints on this machine.
Owns: what each makes of its options.
Does not know: how a checkpoint is fetched (pull.py) or made (make_checkpoint.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from gptoss_backend.environment import child_environment
from gptoss_client.console import plain_console
from gptoss_client.errors import INTERRUPTED
from gptoss_client.make_checkpoint import DEFAULT_SEED, CheckpointOrder, ExpertFormat, ShapeName, make_checkpoint
from gptoss_client.serve_options import ConfigOption, load
from gptoss_client.stop_signal import StopSignal


def pull_checkpoint(
    name: Annotated[
        str, typer.Argument(metavar="20b|120b|OWNER/NAME[@REVISION]", help="A model, or a repository of the Hub.")
    ],
    *,
    if_absent: Annotated[
        bool, typer.Option("--if-absent", help="Keep a checkpoint that is there whole, and ask no Hub for a newer one.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read what is there first, and fetch anew what the disk has damaged.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Fetch a checkpoint into the local Hugging Face cache (HF_HOME); what was interrupted goes on where it stopped."""
    from gptoss_client.pull import pull, repository_of  # here: the Hub's library takes a moment to load

    console = plain_console()
    try:
        folder = pull(repository_of(name, load(config, {})), console, if_absent=if_absent, verify=verify)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on where this one was")
        raise typer.Exit(INTERRUPTED) from None
    console.print(f"{name} is in {folder}")


def make_random_checkpoint(
    path: Annotated[Path, typer.Argument(help="The folder to make.")],
    *,
    shape: Annotated[ShapeName | None, typer.Option(help="Whose sizes it has.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = DEFAULT_SEED,
    experts: Annotated[ExpertFormat, typer.Option(help="How the experts are stored.")] = "mxfp4",
    head_for: Annotated[
        str | None, typer.Option(metavar="CHECKPOINT", help="Make an EAGLE-3 draft head for that one instead.")
    ] = None,
) -> None:
    """Make a checkpoint of random weights in the published layout, to try and to measure sizes without the weights.

    The shape `demo` is the trained demo model.
    """
    folder = Path(os.path.abspath(path.expanduser()))
    order = CheckpointOrder(folder, shape, seed, experts, head_for)
    with StopSignal() as stop:
        # it reads no settings; the file's name only keeps ours out of its environment
        is_made = make_checkpoint(order, child_environment(folder / "config.yaml"), stop, plain_console())
    raise typer.Exit(0 if is_made else INTERRUPTED)
