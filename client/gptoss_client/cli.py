"""The `gptoss` command.

Stage: the edge between a person and the server's processes.
Owns: which commands there are, the options of those about a server, exit statuses, where words are printed.
Does not know: how a server is started, watched or ended.
"""

from __future__ import annotations

import contextlib
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final

import typer

from gptoss_backend.environment import child_environment
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import setting_layers
from gptoss_client import config_command, doctor
from gptoss_client.addresses import on_free_ports
from gptoss_client.checkpoint_commands import make_random_checkpoint, pull_checkpoint
from gptoss_client.console import plain_console
from gptoss_client.errors import CommandError
from gptoss_client.follow import LogReader
from gptoss_client.join import join as join_engine
from gptoss_client.keys import add_key
from gptoss_client.placing import with_num_replicas
from gptoss_client.plan import plan
from gptoss_client.reload import reload
from gptoss_client.run_state import RunDirectory
from gptoss_client.serve import check_startable
from gptoss_client.serve import serve as serve_until_stopped
from gptoss_client.serve_options import (
    CheckpointOption,
    ConfigOption,
    HostOption,
    ModelsOption,
    PortOption,
    ProfileOption,
    RunDirOption,
    ServeOptions,
    load,
)
from gptoss_client.standard_streams import BROKEN_PIPE, flush_output, never_fail_to_encode, open_closed
from gptoss_client.status import report
from gptoss_client.stop import stop_server
from gptoss_client.talk_commands import ask, bench, chat

_FOLLOW_PERIOD_S: Final = 0.2

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"max_content_width": 120},
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        plain_console().print(version("gptoss-triton"))
        raise typer.Exit


@app.callback()
def gptoss(
    *,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print it, and nothing else.")
    ] = False,
) -> None:
    """Serve GPT-OSS from NVIDIA Triton Inference Server, behind an OpenAI-compatible API."""


@app.command()
def serve(
    *,
    models: ModelsOption = None,
    profile: ProfileOption = None,
    port: PortOption = None,
    host: HostOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return when ready; the server goes on.")] = False,
    auto_port: Annotated[
        bool, typer.Option("--auto-port", help="Take the next free ports in a row from --port on.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="End the server of the same run directory first.")] = False,
) -> None:
    """Start Triton and the API, and keep watch until Ctrl-C."""
    settings = ServeOptions(config, models, profile, port, host, checkpoint, run_dir).with_absolute_paths()
    if replace:
        check_startable(settings)  # before there is none
        _end_earlier(settings)
    settings = with_num_replicas(settings, child_environment(RunDirectory.of(settings).config))
    if auto_port:
        settings = _on_free_ports(settings)
    raise typer.Exit(serve_until_stopped(settings, plain_console(), detach=detach))


@app.command("config")
def show_config(
    *,
    models: ModelsOption = None,
    profile: ProfileOption = None,
    port: PortOption = None,
    host: HostOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every setting that `serve` would use with these options, its value and where that comes from."""
    overrides = ServeOptions(config, models, profile, port, host, checkpoint, run_dir).overrides()
    settings = config_command.sourced_settings(load(config, overrides), setting_layers(overrides, config=config))
    plain_console().print(config_command.as_json(settings) if as_json else "\n".join(config_command.as_table(settings)))


@app.command("doctor")
def examine(
    *,
    models: ModelsOption = None,
    profile: ProfileOption = None,
    port: PortOption = None,
    host: HostOption = None,
    checkpoint: CheckpointOption = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look whether `serve` would work with these options, and say what to do: exit status 0 if it would, else 1."""
    options = ServeOptions(config, models, profile, port, host, checkpoint, run_dir)
    findings = doctor.diagnose(options.with_absolute_paths())
    plain_console().print(doctor.as_json(findings) if as_json else "\n".join(doctor.as_lines(findings)))
    raise typer.Exit(doctor.exit_status(findings))


app.command("pull")(pull_checkpoint)
app.command("make-checkpoint")(make_random_checkpoint)
app.command("plan")(plan)
for command in (chat, ask, bench):
    app.command()(command)


@app.command()
def stop(*, config: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """End the running server."""
    run = _run_directory(config, run_dir)
    plain_console().print("stopped" if stop_server(run) else f"no server runs from {run.root}")


@app.command()
def status(*, config: ConfigOption = None, run_dir: RunDirOption = None) -> None:
    """Say what runs and how it is: exit status 0 when ready, 3 when nothing runs, else 1."""
    exit_status, lines = report(_run_directory(config, run_dir))
    plain_console().print("\n".join(lines))
    raise typer.Exit(exit_status)


@app.command("reload")
def reload_model(
    model: Annotated[ModelShort | None, typer.Argument(help="Which [default: the only one served].")] = None,
    *,
    checkpoint: Annotated[str | None, typer.Option(help="What to load [default: the same place anew].")] = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Load another checkpoint for a served model while it and the others go on; both take memory for as long."""
    reload(_run_directory(config, run_dir), model, checkpoint, plain_console())


@app.command()
def logs(
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="How many of each process to begin with.")] = 20,
    config: ConfigOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Show what the server's processes printed, also those of a server that has ended."""
    run = _run_directory(config, run_dir)
    if not run.logs.is_dir():
        raise CommandError(f"no server has run from {run.root}: there is no folder {run.logs}")
    reader, console = LogReader(run.logs), plain_console()
    for line in reader.last_lines(lines):
        console.print(line)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            time.sleep(_FOLLOW_PERIOD_S)
            for line in reader.new_lines():
                console.print(line)


@app.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; the log names it.")],
    *,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Answers at once [default: the server's].")] = None,
    urgent: Annotated[bool, typer.Option("--urgent", help="It may ask for a priority before the others'.")] = False,
    keys: Annotated[Path | None, typer.Option(help="The file of keys [default: adapter.keys_path].")] = None,
    config: ConfigOption = None,
) -> None:
    """Make an API key, and print it this once: the file keeps its hash only."""
    path = keys if keys is not None else load(config, {}).adapter.keys_path
    plain_console().print(add_key(path, name, max_concurrency, is_urgent=urgent))


@app.command()
def join(
    *,
    node_rank: Annotated[int, typer.Option(help="Which of the nodes this is; the first, 0, runs `gptoss serve`.")],
    model: Annotated[ModelShort | None, typer.Option(help="What is served [default: the profile's model].")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="A checkpoint folder, in place of the model's own.")] = None,
    config: ConfigOption = None,
) -> None:
    """Hold this host's part of a model whose engine runs on another, until Ctrl-C."""
    options = ServeOptions(config, models=None if model is None else [model], checkpoint=checkpoint)
    raise typer.Exit(join_engine(options.with_absolute_paths(), node_rank, plain_console()))


def _end_earlier(settings: Settings) -> None:
    run = RunDirectory.of(settings)
    if stop_server(run):
        plain_console().print(f"ended the earlier server of {run.root}")


def _on_free_ports(settings: Settings) -> Settings:
    settings = on_free_ports(settings)
    server = settings.server
    last = server.of_replica(server.num_tritonservers - 1).http_port
    of_others = f", and so on for each further one, up to {last}" if last > server.http_port else ""
    plain_console().print(
        f"ports: {server.port} (the OpenAI API), Triton {server.grpc_port} (gRPC), "
        f"{server.metrics_port} (metrics), {server.http_port} (HTTP){of_others}"
    )
    return settings


def _run_directory(config: Path | None, run_dir: Path | None) -> RunDirectory:
    return RunDirectory.of(load(config, {"server": {"run_dir": run_dir}}))


def main() -> int:
    """Run the command; returns or exits with its status."""
    open_closed()
    never_fail_to_encode()
    try:
        try:
            app()
        finally:
            flush_output()
    except CommandError as error:
        return _failed(str(error), error.exit_status)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:  # a full disk, say, whatever was to be written
        where = f"{error.filename}: " if error.filename else ""
        return _failed(f"{where}{error.strerror or error}", CommandError.exit_status)
    except UnicodeError as error:
        return _failed(str(error), CommandError.exit_status)
    return 0


def _failed(sentence: str, exit_status: int) -> int:
    with contextlib.suppress(OSError):  # nowhere to say it
        plain_console(stderr=True).print(f"error: {sentence}")
    return exit_status


if __name__ == "__main__":
    sys.exit(main())
