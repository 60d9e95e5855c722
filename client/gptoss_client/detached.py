"""The supervisor of a server in the background, as `gptoss serve --detach` starts it.

Stage: the life of a detached server.
Owns: nothing but its own process; the claim on the run directory came with a descriptor it inherited.
Does not know: the terminal it was started from.
"""

from __future__ import annotations

import sys

from rich.console import Console

from gptoss_backend.settings_sources import load_settings
from gptoss_client.display import Display
from gptoss_client.errors import CommandError
from gptoss_client.run_state import RunDirectory
from gptoss_client.serve import supervise
from gptoss_client.standard_streams import never_fail_to_encode
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_runtime import find_runtime


def main() -> int:
    """Supervise the server whose resolved settings the environment names; returns the exit status."""
    never_fail_to_encode()
    display = Display(Console(force_terminal=False), with_time=True)
    try:
        settings = load_settings()
        with StopSignal() as stop:
            return supervise(settings, find_runtime(), RunDirectory(settings.server.run_dir), display, stop)
    except CommandError as error:
        display.failed(str(error))
        return error.exit_status
    except OSError as error:  # a full disk, say
        display.failed(str(error))
        return CommandError.exit_status


if __name__ == "__main__":
    sys.exit(main())
