"""What the Triton container runs: tritonserver with the flags of `gptoss serve`, ended when it is of no use any more.

Stage: start of the container, then its watch.
Owns: that a container whose stub has crashed ends, so that its restart policy (Docker's or Kubernetes') makes it whole;
Triton itself neither restarts a stub nor says that one is gone.
Does not know: tritonserver's flags (gptoss_client.launch), settings' names, how models work.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Final

from gptoss_backend.settings import Settings, SettingsError, inherited_environment, load_settings
from gptoss_client.checkpoint import DEMO, ensure_demo
from gptoss_client.errors import CommandError
from gptoss_client.launch import TRITON, remove_shared_memory, triton_command
from gptoss_client.placing import config_variant
from gptoss_client.process_group import ProcessRecord, crashed_children
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_runtime import find_runtime

CHECK_PERIOD_S: Final = 1.0
_STUB_CRASHED: Final = 70
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
        return watch(start(settings, shm_prefix))
    except CommandError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_status
    finally:
        # a pod's /dev/shm outlives its containers
        remove_shared_memory(shm_prefix)


def start(settings: Settings, shm_prefix: str) -> subprocess.Popen[bytes]:
    """Start tritonserver; SIGTERM and SIGINT are passed on to it from here on."""
    variant = config_variant(settings, inherited_environment())
    command = triton_command(settings, find_runtime(), config_name=variant, shm_prefix=shm_prefix)
    server = subprocess.Popen(command)

    def pass_on(number: int, _: FrameType | None) -> None:
        server.send_signal(number)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    return server


def watch(server: subprocess.Popen[bytes]) -> int:
    """Wait for the end of tritonserver, and bring it about where a stub has crashed; returns an exit status."""
    leader = ProcessRecord.of(TRITON, server.pid)
    crashed_before: set[int] = set()
    while True:
        try:
            status = server.wait(CHECK_PERIOD_S)
        except subprocess.TimeoutExpired:
            crashed = set(crashed_children(leader))
        else:
            return status if status >= 0 else _SIGNAL_BASE - status
        # an orderly end looks like a crash until the parent has taken note: a crash still looks so a second later
        if lasting := crashed & crashed_before:
            sys.stderr.write(f"error: tritonserver lost a stub (pid {min(lasting)}); its container ends\n")
            # a server that waits for a stub that is gone does not end by itself
            server.kill()
            server.wait()
            return _STUB_CRASHED
        crashed_before = crashed


if __name__ == "__main__":
    sys.exit(main())
