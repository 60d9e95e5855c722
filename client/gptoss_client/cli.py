"""The `gptoss` command.

Stage: the edge between a person and the server's processes.
Owns: options, their meaning as settings, exit statuses, where words are printed.
Does not know: how a server is started, watched or ended.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from gptoss_backend.contract import ModelShort
from gptoss_backend.settings import ProfileName, Settings, SettingsError, load_settings
from gptoss_client.checkpoint import absolute
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.follow import LogReader
from gptoss_client.launch import on_free_ports
from gptoss_client.run_state import RunDirectory
from gptoss_client.serve import serve as serve_until_stopped
from gptoss_client.status import report
from gptoss_client.stop import stop_server

_FOLLOW_PERIOD_S: Final = 0.2

app = typer.Typer(
    help="Serve GPT-OSS from NVIDIA Triton Inference Server, behind an OpenAI-compatible API.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Settings file [default: configs/server_config.yaml].")
]
RunDirOption = Annotated[
    Path | None, typer.Option(help="State and logs; one server each [default: .run in the project].")
]


@app.command()
def serve(
    *,
    model: Annotated[ModelShort | None, typer.Option(help="What to serve [default: the profile's model].")] = None,
    profile: Annotated[ProfileName | None, typer.Option(help="Operating point [default: balanced].")] = None,
    port: Annotated[
        int | None, typer.Option(help="Of the OpenAI API; Triton takes the next three [default: 8000].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where the OpenAI API listens [default: 127.0.0.1].")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint folder, in place of the model's own.")] = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready; the server goes on.")] = False,
    auto_port: Annotated[
        bool, typer.Option("--auto-port", help="Take the next four free ports from --port on.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="End the server of the same run directory first.")] = False,
) -> None:
    """Start Triton and the API, and keep watch until Ctrl-C."""
    server = {"port": port, "host": host, "run_dir": run_dir}
    settings = _load(config, {"model": model, "profile": profile, "server": server})
    if checkpoint is not None:
        checkpoints = {**settings.checkpoints, settings.served_model: checkpoint}
        settings = settings.model_copy(update={"checkpoints": checkpoints})
    settings = _with_absolute_paths(settings)
    if replace:
        _end_earlier(settings)
    if auto_port:
        settings = _on_free_ports(settings)
    raise typer.Exit(serve_until_stopped(settings, _console(), detach=detach))


@app.command()
def stop(*, config: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """End the running server."""
    settings = _load(config, {"server": {"run_dir": run_dir}})
    run = RunDirectory(Path(os.path.abspath(settings.server.run_dir)))
    ended = stop_server(run, settings.server.shutdown_timeout_s)
    _console().print("stopped" if ended else f"no server runs from {run.root}")


@app.command()
def status(*, config: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """Say what runs and how it is: exit status 0 when ready, 3 when nothing runs, else 1."""
    settings = _load(config, {"server": {"run_dir": run_dir}})
    exit_status, lines = report(RunDirectory(Path(os.path.abspath(settings.server.run_dir))))
    _console().print("\n".join(lines))
    raise typer.Exit(exit_status)


@app.command()
def logs(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many of each process to begin with.")] = 20,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Show what the server's processes printed, also those of a server that has ended."""
    settings = _load(config, {"server": {"run_dir": run_dir}})
    reader = LogReader(RunDirectory(Path(os.path.abspath(settings.server.run_dir))).logs)
    console = _console()
    for line in reader.last_lines(lines):
        console.print(line)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            time.sleep(_FOLLOW_PERIOD_S)
            for line in reader.new_lines():
                console.print(line)


def _end_earlier(settings: Settings) -> None:
    run = RunDirectory(settings.server.run_dir)
    if stop_server(run, settings.server.shutdown_timeout_s):
        _console().print(f"ended the earlier server of {run.root}")


def _on_free_ports(settings: Settings) -> Settings:
    settings = on_free_ports(settings)
    server = settings.server
    _console().print(
        f"ports: {server.port} (the OpenAI API), Triton {server.grpc_port} (gRPC), "
        f"{server.metrics_port} (metrics), {server.http_port} (HTTP)"
    )
    return settings


def _load(config: Path | None, overrides: dict[str, Any]) -> Settings:
    try:
        return load_settings(overrides, config=config)
    except SettingsError as error:
        raise UsageError(str(error)) from error


def _with_absolute_paths(settings: Settings) -> Settings:
    server = settings.server
    paths = {name: Path(os.path.abspath(getattr(server, name))) for name in ("run_dir", "model_repository")}
    checkpoints = {model: absolute(model, place) for model, place in settings.checkpoints.items()}
    return settings.model_copy(update={"server": server.model_copy(update=paths), "checkpoints": checkpoints})


def _console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False)


def main() -> int:
    """Run the command; returns or exits with its status."""
    try:
        app()
    except CommandError as error:
        _console(stderr=True).print(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
