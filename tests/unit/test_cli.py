"""The `gptoss` command from outside, with stand-ins for tritonserver and the adapter."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from gptoss_backend.settings_sources import load_settings
from gptoss_client.run_state import RunDirectory, RunState
from gptoss_client.stop import stop_server
from support.processes import wait_until
from support.stand_ins import free_ports, write_adapter, write_tritonserver

NOT_RUNNING = 3
TIMEOUT_S = 60


class Terminal:
    """Runs `gptoss` the way a person does, everything in one folder. Leaves nothing running."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDirectory(folder / "run")
        self.repository = folder / "repository"
        self.repository.mkdir()
        checkpoint = folder / "checkpoint"
        checkpoint.mkdir()
        (checkpoint / "config.json").write_text("{}")
        self.port, grpc, metrics, http = free_ports(4)
        self._servers: list[subprocess.Popen[str]] = []
        self._environment = {
            **{name: text for name, text in os.environ.items() if not name.startswith("GPTOSS_")},
            "PATH": f"{write_tritonserver(folder / 'triton')}:{os.environ['PATH']}",
            "PYTHONPATH": str(write_adapter(folder / "adapter")),
            "GPTOSS_MODEL": "demo",
            "GPTOSS_CHECKPOINTS__DEMO": str(checkpoint),
            "GPTOSS_SERVER__MODEL_REPOSITORY": str(self.repository),
            "GPTOSS_SERVER__PORT": str(self.port),
            "GPTOSS_SERVER__TRITON_GRPC_PORT": str(grpc),
            "GPTOSS_SERVER__TRITON_METRICS_PORT": str(metrics),
            "GPTOSS_SERVER__TRITON_HTTP_PORT": str(http),
            "GPTOSS_SERVER__RUN_DIR": str(self.run.root),
            "GPTOSS_SERVER__SHUTDOWN_TIMEOUT_S": "10",
        }

    def gptoss(
        self,
        *arguments: str,
        output: int = subprocess.PIPE,
        preexec_fn: Callable[[], None] | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. preexec_fn: as of `subprocess.run`."""
        return subprocess.run(
            self._command(arguments),
            env={**self._environment, **environment},
            stdout=output,
            stderr=subprocess.PIPE,
            preexec_fn=preexec_fn,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def serve(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `gptoss serve` and return once it is ready."""
        server = self.start("serve", *arguments)
        wait_until(lambda: self.state is not None and self.state.phase == "ready", TIMEOUT_S)
        return server

    def start(self, *arguments: str, output: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
        """Start a command and return at once."""
        process = subprocess.Popen(
            self._command(arguments),
            env={**self._environment, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._servers.append(process)
        return process

    @property
    def state(self) -> RunState | None:
        return self.run.read_state()

    @property
    def pids(self) -> dict[str, int]:
        state = self.state
        assert state is not None
        return {record.name: record.pid for record in (*state.processes, state.supervisor)}

    def close(self) -> None:
        stop_server(self.run)
        for server in self._servers:
            server.kill()
            server.wait()
            if server.stdout:
                server.stdout.close()

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "gptoss_client.cli", *arguments]


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def gone(pids: dict[str, int]) -> bool:
    return not any(
        psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids.values()
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_when_interrupted_then_ends_both_processes_and_succeeds(terminal: Terminal, number: int) -> None:
    server = terminal.serve()
    pids = terminal.pids
    ready = httpx.get(f"http://127.0.0.1:{terminal.port}/health", trust_env=False).status_code

    server.send_signal(number)
    words, _ = server.communicate(timeout=TIMEOUT_S)

    assert ready == httpx.codes.OK
    assert server.returncode == 0
    assert f"OpenAI API  http://127.0.0.1:{terminal.port}/v1" in words
    assert f"to look at  http://127.0.0.1:{terminal.port}/\n" in words
    assert f"curl -N http://127.0.0.1:{terminal.port}/v1/chat/completions" in words
    assert words.endswith("stopping adapter\nstopping tritonserver\n")
    assert gone(pids)
    assert terminal.state is None


def test_serve_when_ready_then_every_process_reads_the_resolved_settings_and_no_other(terminal: Terminal) -> None:
    terminal.serve("--profile", "latency_first")

    assert f"config {terminal.run.config}" in (terminal.run.logs / "triton.log").read_text()
    assert "settings ['GPTOSS_CONFIG']" in (terminal.run.logs / "adapter.log").read_text()
    assert "profile: latency_first" in terminal.run.config.read_text()


def test_serve_when_nobody_reads_its_words_any_more_then_goes_on(terminal: Terminal) -> None:
    server = terminal.start("serve")
    assert server.stdout is not None
    server.stdout.close()
    wait_until(lambda: terminal.state is not None and terminal.state.phase == "ready", TIMEOUT_S)

    assert terminal.gptoss("status").returncode == 0
    assert terminal.gptoss("stop").stdout == "stopped\n"


def test_serve_when_tritonserver_cannot_load_then_shows_its_words_and_fails(terminal: Terminal) -> None:
    (terminal.repository / "broken").touch()

    failed = terminal.gptoss("serve")

    assert failed.returncode == 1
    assert "error: tritonserver died (exit status 1)" in failed.stderr
    assert "error: failed to load the model" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert terminal.state is None


@pytest.mark.parametrize("name", ["tritonserver", "adapter"])
def test_serve_when_a_process_is_killed_then_starts_it_again_and_tells(terminal: Terminal, name: str) -> None:
    server = terminal.serve()
    before = terminal.pids

    os.kill(before[name], signal.SIGKILL)
    wait_until(lambda: terminal.state is not None and terminal.state.phase == "restarting", TIMEOUT_S)
    meanwhile = terminal.gptoss("status")
    wait_until(lambda: terminal.state is not None and terminal.state.phase == "ready", TIMEOUT_S)
    after = terminal.pids
    status = terminal.gptoss("status")
    server.terminate()
    words, _ = server.communicate(timeout=TIMEOUT_S)

    assert f"started again once: {name} died (killed by SIGKILL), " in meanwhile.stdout
    assert f"started again once: {name} died (killed by SIGKILL), " in status.stdout
    assert (status.returncode, server.returncode) == (0, 0)
    assert {other for other in before if before[other] != after[other]} == {name}
    assert f"\n{name} died (killed by SIGKILL): starting {name} again in 0.25 s\nready again after " in words
    assert gone(before | after)


def test_serve_when_there_are_two_replicas_and_one_is_killed_then_all_commands_tell_them_apart(
    terminal: Terminal,
) -> None:
    started = terminal.gptoss(
        "serve", "--detach", "--auto-port", "--port", str(free_ports(1)[0]), GPTOSS_SERVER__NUM_REPLICAS="2"
    )
    before = terminal.pids
    port = load_settings(config=terminal.run.config, environ={}).server.port
    whole = terminal.gptoss("status")
    slow = terminal.repository / f"slow-{port + 6}"
    slow.touch()
    os.kill(before["tritonserver-1"], signal.SIGKILL)
    wait_until(lambda: terminal.pids.get("tritonserver-1") not in (None, before["tritonserver-1"]), TIMEOUT_S)
    meanwhile = terminal.gptoss("status")
    slow.unlink()
    wait_until(lambda: terminal.state is not None and terminal.state.phase == "ready", TIMEOUT_S)
    after = terminal.pids
    shown, stopped = terminal.gptoss("logs"), terminal.gptoss("stop")

    assert f"{port + 3} (HTTP), and so on for each further one, up to {port + 6}\n" in started.stdout
    assert (whole.returncode, meanwhile.returncode) == (0, 0)
    assert f"  tritonserver-1 pid {before['tritonserver-1']:<8} ready\n" in whole.stdout
    assert f"  Triton-1       127.0.0.1:{port + 4} (gRPC), http://127.0.0.1:{port + 6} (HTTP)" in whole.stdout
    assert "degraded, 1 of 2 replicas are ready" in meanwhile.stdout
    assert "  awaited: tritonserver-1 loads gpt_oss_demo\n" in meanwhile.stdout
    assert "started again once: tritonserver-1 died (killed by SIGKILL), " in meanwhile.stdout
    assert {name for name in before if before[name] != after[name]} == {"tritonserver-1"}
    assert f"triton-1   | config {terminal.run.config}\n" in shown.stdout
    assert stopped.stdout == "stopped\n"
    assert gone(before | after)


def test_serve_when_a_port_is_taken_then_names_the_port_and_who_has_it(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        refused = terminal.gptoss("serve", "--port", str(port))

    assert refused.returncode == 1
    assert f"error: port {port} (the OpenAI API) is taken by " in refused.stderr
    assert f"(pid {os.getpid()})" in refused.stderr


def test_serve_when_ports_are_taken_and_auto_port_then_takes_the_next_four_and_says_which(terminal: Terminal) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        started = terminal.gptoss("serve", "--detach", "--auto-port", "--port", str(port))

    server = load_settings(config=terminal.run.config, environ={}).server
    assert started.returncode == 0
    assert server.port > port
    assert (server.grpc_port, server.metrics_port, server.http_port) == tuple(server.port + n for n in (1, 2, 3))
    assert f"ports: {server.port} (the OpenAI API), Triton {server.port + 1} (gRPC)" in started.stdout
    assert httpx.get(f"http://127.0.0.1:{server.port}/health", trust_env=False).status_code == httpx.codes.OK


def test_serve_when_told_to_replace_then_ends_the_server_of_its_own_directory_only(
    terminal: Terminal, tmp_path: Path
) -> None:
    terminal.serve()
    before = terminal.pids
    elsewhere = terminal.gptoss("serve", "--replace", "--run-dir", str(tmp_path / "other"))
    alone = terminal.pids

    replaced = terminal.gptoss("serve", "--replace", "--detach")

    assert (elsewhere.returncode, alone) == (1, before)
    assert f"port {terminal.port} (the OpenAI API) is taken" in elsewhere.stderr
    assert replaced.returncode == 0
    assert f"ended the earlier server of {terminal.run.root}" in replaced.stdout
    assert not set(before.values()) & set(terminal.pids.values())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "20b", "--checkpoint", "/does/not/exist"), "there is no checkpoint in /does/not/exist"),
        (("--host", "192.0.2.1"), "192.0.2.1 is not an address of this machine"),
    ],
)
def test_serve_when_told_to_replace_by_what_cannot_start_then_the_earlier_server_goes_on(
    terminal: Terminal, arguments: tuple[str, ...], words: str
) -> None:
    terminal.serve()
    before = terminal.pids

    refused = terminal.gptoss("serve", "--replace", *arguments)

    assert words in refused.stderr
    assert terminal.pids == before
    assert terminal.gptoss("status").returncode == 0


def test_status_and_ask_when_the_settings_are_another_versions_then_say_so_and_stop_works(terminal: Terminal) -> None:
    terminal.serve()
    terminal.run.config.write_text("server: {renamed: 1}")

    status, asked = terminal.gptoss("status"), terminal.gptoss("ask", "Hi")

    for told in (status, asked):
        assert told.returncode == 1
        assert told.stderr.startswith(f"error: the settings that the server of {terminal.run.root} was started with ")
        assert "Traceback" not in told.stderr
    assert terminal.gptoss("stop").stdout == "stopped\n"


def test_serve_when_the_terminal_lacks_signs_then_goes_on(terminal: Terminal) -> None:
    master, slave = pty.openpty()
    server = terminal.start("serve", output=slave, PYTHONIOENCODING="latin-1", TERM="xterm")
    os.close(slave)
    wait_until(lambda: terminal.state is not None and terminal.state.phase == "ready", TIMEOUT_S)
    server.terminate()
    words = b""
    with contextlib.suppress(OSError):  # the terminal's end
        while piece := os.read(master, 65536):
            words += piece
    os.close(master)

    assert server.wait(TIMEOUT_S) == 0
    assert b"stopping tritonserver" in words


def test_serve_when_a_server_already_runs_from_the_directory_then_refuses(terminal: Terminal) -> None:
    terminal.serve()

    refused = terminal.gptoss("serve", "--port", str(free_ports(1)[0]))

    assert refused.returncode == 1
    assert (
        f"error: a server (pid {terminal.pids['supervisor']}) already runs from {terminal.run.root}" in refused.stderr
    )
    assert terminal.gptoss("status").returncode == 0


def test_serve_when_detached_then_goes_on_until_stopped(terminal: Terminal) -> None:
    started = terminal.gptoss("serve", "--detach")
    pids = terminal.pids
    status = terminal.gptoss("status")
    second = terminal.gptoss("serve", "--port", str(free_ports(1)[0]))
    stopped = terminal.gptoss("stop")

    assert started.returncode == 0
    assert "gptoss stop ends it" in started.stdout
    assert "already runs" in second.stderr
    assert status.returncode == 0
    assert "gpt-oss-demo (profile balanced): ready" in status.stdout
    assert f"adapter       pid {pids['adapter']:<8} ready" in status.stdout
    assert stopped.returncode == 0
    assert re.search(r"^  demo weights +/\S+$", status.stdout, re.MULTILINE)
    assert stopped.stdout == "stopped\n"
    assert gone(pids)
    assert terminal.gptoss("status").returncode == NOT_RUNNING


@pytest.mark.parametrize(
    ("folder", "typed"),
    [(".run", "gptoss stop"), ("b", "gptoss stop --run-dir {}"), ("a b", "gptoss stop --run-dir '{}'")],
)
def test_command_when_the_run_directory_is_another_then_its_words_name_it(
    folder: str, typed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GPTOSS_SERVER__RUN_DIR", str(tmp_path / ".run"))
    assert RunDirectory(tmp_path / folder).command("stop") == typed.format(tmp_path / folder)


def test_serve_when_detached_with_its_input_closed_then_the_directory_is_still_claimed(terminal: Terminal) -> None:
    started = terminal.gptoss("serve", "--detach", preexec_fn=lambda: os.close(0))

    second = terminal.gptoss("serve", "--port", str(free_ports(1)[0]))

    assert started.returncode == 0, started.stderr
    assert "already runs" in second.stderr


def test_serve_when_detached_and_it_fails_then_tells_why(terminal: Terminal) -> None:
    (terminal.repository / "broken").touch()

    failed = terminal.gptoss("serve", "--detach")

    status = terminal.gptoss("status")
    (terminal.repository / "broken").unlink()
    terminal.gptoss("serve", "--detach")
    terminal.gptoss("stop")

    assert failed.returncode == 1
    assert status.returncode == NOT_RUNNING
    assert "the last one failed: tritonserver died (exit status 1)" in status.stdout
    assert "failed" not in terminal.gptoss("status").stdout
    assert failed.stderr.startswith("error: tritonserver died (exit status 1)")
    assert "error: failed to load the model" in failed.stderr


def test_status_when_the_server_is_not_ready_yet_then_says_what_it_waits_for(terminal: Terminal) -> None:
    (terminal.repository / "slow").touch()
    terminal.start("serve")
    wait_until(lambda: terminal.state is not None and bool(terminal.state.awaited), TIMEOUT_S)

    status = terminal.gptoss("status")

    assert status.returncode == 1
    assert "gpt-oss-demo (profile balanced): starting" in status.stdout
    assert "awaited: tritonserver loads gpt_oss_demo" in status.stdout


def test_stop_when_the_supervisor_was_killed_then_ends_what_it_left(terminal: Terminal) -> None:
    server = terminal.serve()
    pids = terminal.pids
    server.kill()
    server.wait()

    status = terminal.gptoss("status")
    stopped = terminal.gptoss("stop")

    assert status.returncode == NOT_RUNNING
    assert f"pid {pids['tritonserver']} still runs" in status.stdout
    assert stopped.stdout == "stopped\n"
    assert gone(pids)


def test_serve_when_an_earlier_supervisor_was_killed_then_takes_its_place(terminal: Terminal) -> None:
    terminal.serve().kill()
    left = terminal.pids
    del left["supervisor"]

    started = terminal.gptoss("serve", "--detach")

    assert started.returncode == 0
    assert "ended 2 processes that an earlier server left behind" in started.stdout
    assert gone(left)


def test_logs_when_a_server_has_ended_then_show_what_each_process_printed_last(terminal: Terminal) -> None:
    terminal.gptoss("serve", "--detach")
    terminal.gptoss("stop")

    shown = terminal.gptoss("logs", "--lines", "50")

    assert shown.returncode == 0
    assert f"triton     | config {terminal.run.config}\n" in shown.stdout
    assert "adapter    | settings ['GPTOSS_CONFIG']\n" in shown.stdout


def test_logs_when_no_server_ever_ran_from_there_then_say_so(terminal: Terminal, tmp_path: Path) -> None:
    shown = terminal.gptoss("logs", "--run-dir", str(tmp_path / "typo"))

    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(f"error: no server has run from {tmp_path / 'typo'}")


@pytest.mark.parametrize("command", ["status", "config"])
def test_any_command_when_the_disk_is_full_then_says_so_in_a_sentence(terminal: Terminal, command: str) -> None:
    with Path("/dev/full").open("w") as full:
        told = terminal.gptoss(command, output=full.fileno())

    assert (told.returncode, told.stderr) == (1, "error: No space left on device\n")


def test_stop_and_status_when_nothing_runs_then_say_so(terminal: Terminal) -> None:
    status, stopped = terminal.gptoss("status"), terminal.gptoss("stop")

    assert (status.returncode, stopped.returncode) == (NOT_RUNNING, 0)
    assert status.stdout == stopped.stdout == f"no server runs from {terminal.run.root}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("serve", "--port", "70000"), "error: server.port: Input should be less than or equal to 65535\n"),
        (("serve", "--config", "/does/not/exist.yaml"), "error: cannot read the settings file /does/not/exist.yaml: "),
        (
            ("serve", "--model", "20b", "--checkpoint", "/does/not/exist"),
            "error: there is no checkpoint in /does/not/exist",
        ),
        (("serve", "--model", "7b"), "Input should be 'demo', '20b' or '120b'"),
    ],
)
def test_serve_when_asked_for_what_cannot_be_then_says_so_in_a_sentence(
    terminal: Terminal, arguments: tuple[str, ...], words: str
) -> None:
    refused = terminal.gptoss(*arguments)

    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr


def test_any_command_when_a_variable_names_no_setting_then_names_it(terminal: Terminal) -> None:
    started = time.monotonic()

    refused = terminal.gptoss("status", GPTOSS_ENGINE__MAX_SEQS="8")

    assert refused.returncode == 2
    assert refused.stderr == "error: engine.max_seqs: no such setting\n"
    assert time.monotonic() - started < 10
