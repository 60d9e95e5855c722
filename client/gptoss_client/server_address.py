"""Which server a command talks to.

Stage: `gptoss chat`, `ask` and `bench`, before the first request.
Owns: finding the server of a run directory, and what to do where none runs.
Does not know: what is asked of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_client.addresses import Addresses
from gptoss_client.api_errors import ClientError
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.queries import server_root
from gptoss_client.run_state import Phase, RunDirectory


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """A server's API."""

    url: str
    """Without `/v1`."""
    api_key: str | None = None
    verify: bool = True
    """Whether its certificate must be one that this machine trusts."""
    trust_env: bool = True
    """Whether it may stand behind a proxy that the environment names."""


def named_server(url: str, api_key: str | None) -> ServerAddress:
    """Return the server at `url`. Raises UsageError where that is no URL."""
    try:
        return ServerAddress(server_root(url), api_key)
    except ClientError as error:
        raise UsageError(f"--url: {error}") from error


def running_server(run: RunDirectory, api_key: str | None) -> ServerAddress:
    """Return the server of a run directory. Raises CommandError where none runs there, or is not ready."""
    state = run.read_state()
    if state is None or state.supervisor.find() is None:
        raise CommandError(
            f"no server runs from {run.root}: start one with `make serve` (or `gptoss serve --detach`), "
            "or name one with --url http://HOST:PORT"
        )
    if state.phase in (Phase.PREPARING, Phase.STARTING):
        raise CommandError(f"the server is not ready yet: `{run.command('status')}` says what it waits for")
    settings = run.read_settings()
    # this machine's own: its certificate need not name 127.0.0.1, and whatever its address, no proxy stands before it
    return ServerAddress(server_root(Addresses.of(settings).api), api_key, verify=False, trust_env=False)
