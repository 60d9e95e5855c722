"""What the Triton container runs: tritonserver with the flags of `gptoss serve`, ended when it is of no use any more.

Stage: start of the container, then its watch.
Owns: that a container whose stub has crashed or hangs ends, so that its restart policy (Docker's or Kubernetes') makes
it whole; Triton itself neither restarts a stub nor says that one is gone.
Does not know: tritonserver's flags (gptoss_client.triton_command), what tells that one hangs (gptoss_client.liveness),
how models work.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Final

from gptoss_backend.environment import inherited_environment, show_cards, with_card_order
from gptoss_backend.settings import Settings, SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses
from gptoss_client.checkpoint import DEMO, ensure_demo
from gptoss_client.errors import CommandError
from gptoss_client.hang_watch import HangWatch
from gptoss_client.launch import TRITON
from gptoss_client.liveness import triton_hang
from gptoss_client.placing import place_in_one
from gptoss_client.probing import http_probe
from gptoss_client.process_group import CrashWatch, ProcessRecord
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_command import remove_shared_memory, triton_command
from gptoss_client.triton_runtime import find_runtime

CHECK_PERIOD_S: Final = 1.0
_STUB_CRASHED: Final = 70
_HANGS: Final = 71
_BAD_SETTINGS: Final = 2
_SIGNAL_BASE: Final = 128  # what a shell adds to the number of the signal that ended a process


def main() -> int:
    """Run tritonserver until it ends or is asked to; returns the container's exit status."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        return _BAD_SETTINGS
    shm_prefix = f"gptoss_{secrets.token_hex(4)}_"
    try:
        if DEMO in settings.served_models:
            with StopSignal() as stop:
                ensure_demo(Path(settings.checkpoints[DEMO]), inherited_environment(), stop)
            if stop.requested:
                return 0
        ending = threading.Event()
        return watch(start(settings, shm_prefix, ending), HangCheck(settings), ending)
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    finally:
        # a pod's /dev/shm outlives its containers
        remove_shared_memory(shm_prefix)


class HangCheck:
    """Whether a tritonserver that was ready gets on: while it loads, it may be silent for minutes."""

    def __init__(self, settings: Settings) -> None:
        addresses = Addresses.of(settings)
        self._limit_s = settings.server.hang_timeout_s
        self._is_ready = http_probe(addresses.triton_ready)
        self._hang = triton_hang(addresses.metrics, settings.server.step_timeout_s)
        self._watch: HangWatch | None = None

    def verdict(self) -> str | None:
        """Return what has not got on for server.hang_timeout_s; None where all does, or that is 0.

        Blocks for two seconds at most, and only until Triton was ready once.
        """
        if self._watch is None and self._limit_s and self._is_ready():
            self._watch = HangWatch(TRITON, self._hang, self._limit_s)
        return self._watch.verdict if self._watch else None

    def close(self) -> None:
        """Ask no more; blocks for as long as the question under way."""
        if self._watch:
            self._watch.close()


def start(settings: Settings, shm_prefix: str, ending: threading.Event) -> subprocess.Popen[bytes]:
    """Start tritonserver; SIGTERM and SIGINT are passed on to it, and `ending` is set with the first."""
    environment = with_card_order(inherited_environment())
    placing = place_in_one(settings, environment)
    if cards := placing.cards_of(0):
        sys.stderr.write(f"leaves out {', '.join(placing.left_out)}: of no use for what is served\n")
        show_cards(cards, environment)
    command = triton_command(
        settings,
        find_runtime(),
        config_name=placing.variant,
        shm_prefix=shm_prefix,
        num_cards=placing.num_cards_of(0),
    )
    server: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, _: FrameType | None) -> None:
        ending.set()
        if server is None:
            early.append(number)
        else:
            server.send_signal(number)

    # before there is one: a signal in between would end this process, and leave the server behind
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    server = subprocess.Popen(command, env=environment)
    for number in early:
        server.send_signal(number)
    return server


def watch(server: subprocess.Popen[bytes], hangs: HangCheck, ending: threading.Event) -> int:
    """Wait for tritonserver's end, and bring it about where a stub has crashed or hangs; returns an exit status."""
    crashes = CrashWatch(ProcessRecord.of(TRITON, server.pid))
    try:
        while True:
            try:
                status = server.wait(CHECK_PERIOD_S)
            except subprocess.TimeoutExpired:
                lost_stub = crashes.lost_child()
            else:
                return status if status >= 0 else _SIGNAL_BASE - status
            if lost_stub:
                return kill(server, f"lost a stub (pid {lost_stub})", _STUB_CRASHED)
            # once it ends, who asked for that sets the limit
            if not ending.is_set() and (trouble := hangs.verdict()):
                return kill(server, f"hangs: {trouble}", _HANGS)
    finally:
        hangs.close()


def kill(server: subprocess.Popen[bytes], reason: str, status: int) -> int:
    """Say why, end tritonserver and return the container's status; the stubs end with the container."""
    sys.stderr.write(f"error: {TRITON} {reason}; its container ends\n")
    # a server that waits for a stub that is gone does not end by itself
    server.kill()
    server.wait()
    return status


if __name__ == "__main__":
    sys.exit(main())
