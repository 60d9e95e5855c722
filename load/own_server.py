"""A server for the length of a run.

Stage: around all.
Owns: its start and its end.
Does not know: what it is asked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from gptoss_backend.environment import child_environment, inherited_environment
from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses
from gptoss_client.run_state import RunDirectory

_GPTOSS: Final = Path(sys.executable).with_name("gptoss")


@contextmanager
def own_server(
    run_dir: Path,
    *,
    model: str,
    profile: str | None = None,
    config: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Addresses]:
    """Serve `model` on free ports from `run_dir`, until the block is left.

    config: the file of its settings; those in this process's environment count no more then. variables: what it finds
    in its environment besides this process's.
    Raises CalledProcessError where it does not start; the command has said why.
    """
    where = ("--run-dir", str(run_dir))
    under = ("--profile", profile) if profile else ()
    environment = child_environment(config) if config is not None else inherited_environment()
    environment |= dict(variables or {})
    serve = (str(_GPTOSS), "serve", "--detach", "--auto-port", "--model", model, *under, *where)
    subprocess.run(serve, env=environment, check=True)
    try:
        yield Addresses.of(load_settings(config=RunDirectory(run_dir).config, environ={}))
    finally:
        subprocess.run((str(_GPTOSS), "stop", *where), env=environment, check=True)
