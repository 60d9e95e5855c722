"""What can keep a command from its work, as the person at the terminal reads it.

Stage: the `gptoss` command.
Owns: the error tree of the client's commands and their exit statuses.
Does not know: where the errors come from.
"""

from __future__ import annotations

from typing import ClassVar, Final

INTERRUPTED: Final = 130
"""What a shell reports of a command ended by Ctrl-C."""


class CommandError(Exception):
    """A command cannot go on. The message is a sentence to act on."""

    exit_status: ClassVar[int] = 1


class UsageError(CommandError):
    """What was asked for cannot be: an option or a setting is wrong."""

    exit_status: ClassVar[int] = 2


class RunningError(CommandError):
    """A server already runs from this run directory."""


class PortError(CommandError):
    """A port cannot be listened on."""


class PortTakenError(PortError):
    """A port cannot be listened on, but another of the same host may be."""


class RuntimeMissingError(CommandError):
    """There is no tritonserver that this Python can run."""


class DriverError(CommandError):
    """The driver of NVIDIA's GPUs is there and does not answer, so whether there is a GPU is not known."""


class ProcessDiedError(CommandError):
    """A process of the server ended by itself. The message ends with its last log lines."""


class StartupTimeoutError(CommandError):
    """The server was not ready in time. The message ends with the last log lines of what was awaited."""
