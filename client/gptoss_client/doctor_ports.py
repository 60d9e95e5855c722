"""Whether the ports that a server listens on can be had, and as many connections as it serves.

Stage: `gptoss doctor`.
Owns: what is said of them, and of a server that runs here already.
Does not know: which port is for what.
"""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_backend.open_files import files_wanted, hard_limit
from gptoss_backend.settings import ServerSettings, Settings
from gptoss_client.addresses import listeners
from gptoss_client.doctor_findings import Finding, Level, problem_of
from gptoss_client.errors import PortError
from gptoss_client.ports import Listener, check_ports
from gptoss_client.run_state import RunDirectory


def examine_ports(run: RunDirectory, server: ServerSettings) -> Iterator[Finding]:
    """Yield each port that is taken, or that all can be had; if a server of ours has them, only that."""
    state = run.read_state()
    if state is not None and state.supervisor.find():
        words = f"a server already runs from {run.root} (pid {state.supervisor.pid})"
        remedy = f"{run.command('stop')} ends it; gptoss serve --replace takes its place"
        yield Finding("server", Level.PROBLEM, words, remedy)
        return
    wanted = listeners(server)
    taken = [finding for listener in wanted if (finding := _taken(listener))]
    free = Finding("ports", Level.OK, f"{', '.join(str(listener.port) for listener in wanted)} can be had")
    yield from taken or [free]


def examine_connections(settings: Settings) -> Iterator[Finding]:
    """Yield why fewer connections can be had than full engines make; nothing where all can."""
    limit, wanted = hard_limit(), files_wanted(settings)
    if limit < wanted:
        words = f"no more than {limit} files may be open in a process, {wanted} are where the engines are full"
        remedy = "raise the hard limit: LimitNOFILE of systemd, ulimits of a container, nofile in limits.conf"
        yield Finding("connections", Level.WARNING, words, remedy)


def _taken(listener: Listener) -> Finding | None:
    try:
        check_ports([listener])
    except PortError as error:
        return problem_of(f"{error}, or let --auto-port choose", "port")
    return None
