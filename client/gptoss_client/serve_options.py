"""The options of a server, which `serve`, `config`, `doctor` and `join` share.

Stage: the edge between a person and the server's processes.
Owns: their words on the command line, their meaning as settings.
Does not know: what is done with the settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from gptoss_backend.settings import ProfileName, Settings, SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.checkpoint import absolute
from gptoss_client.errors import UsageError

ModelsOption = Annotated[
    list[str] | None,  # typer takes no list of choices; the settings' own check refuses others
    typer.Option(
        "--model",
        metavar="demo|20b|120b",
        help="What to serve; once more for another beside it [default: the profile's model].",
    ),
]
ProfileOption = Annotated[ProfileName | None, typer.Option(help="Operating point [default: balanced].")]
PortOption = Annotated[
    int | None, typer.Option(help="Of the OpenAI API; each Triton takes the next three [default: 8000].")
]
HostOption = Annotated[str | None, typer.Option(help="Where the OpenAI API listens [default: 127.0.0.1].")]
CheckpointOption = Annotated[str | None, typer.Option(help="A checkpoint folder, in place of the model's own.")]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file [default: configs/server_config.yaml].")
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="State and logs; one server each [default: .run in the project].")
]


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a command was given of them; None: left to the other sources of settings."""

    config: Path | None = None
    models: Sequence[str] | None = None
    profile: ProfileName | None = None
    port: int | None = None
    host: str | None = None
    checkpoint: str | None = None
    run_dir: Path | None = None

    def overrides(self) -> dict[str, Any]:
        """Return what they say, as the settings file would hold it. Raises UsageError."""
        models = list(self.models) if self.models else None
        server = {"port": self.port, "host": self.host, "run_dir": self.run_dir}
        overrides: dict[str, Any] = {"models": models, "profile": self.profile, "server": server}
        if models and len(models) == 1:  # whatever the profile and the other sources say
            overrides["model"] = models[0]
        if self.checkpoint is not None:  # it is the served model's, whichever the other sources make that
            served = load(self.config, overrides).served_models
            if len(served) > 1:
                names = " and ".join(served)
                raise UsageError(
                    f"--checkpoint is one model's, not that of {names}: set checkpoints.{served[0]} instead"
                )
            overrides["checkpoints"] = {served[0]: self.checkpoint}
        return overrides

    def settings(self) -> Settings:
        """Return the settings with them. Raises UsageError."""
        return load(self.config, self.overrides())

    def with_absolute_paths(self) -> Settings:
        """Return these settings for processes that run in other folders. Raises UsageError."""
        settings = self.settings()
        server = settings.server
        paths = {name: Path(os.path.abspath(getattr(server, name))) for name in ("run_dir", "model_repository")}
        checkpoints = {model: absolute(model, place) for model, place in settings.checkpoints.items()}
        return settings.model_copy(update={"server": server.model_copy(update=paths), "checkpoints": checkpoints})


def load(config: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a file, with overrides. Raises UsageError."""
    try:
        return load_settings(overrides, config=config)
    except SettingsError as error:
        raise UsageError(str(error)) from error
