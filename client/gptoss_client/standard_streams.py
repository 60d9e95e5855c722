"""Standard input, output and error, as a command finds and leaves them.

Stage: from a command's begin to its end.
Owns: what happens where they are closed, lack a sign, are read by nobody or cannot be written.
Does not know: what is printed.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Final

BROKEN_PIPE: Final = 141  # what a shell reports of a command ended by SIGPIPE


def open_closed() -> None:
    """Put the null device where a shell closed one: else the next file to be opened would get its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (for the rest of the process)


def never_fail_to_encode() -> None:
    """Print a question mark for what the encoding lacks: no server is to end for a spinner's sign."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else it is a test's
            stream.reconfigure(errors="replace")


def flush_output() -> None:
    """Bring out what was printed. Raises OSError; what could not be written is dropped then."""
    try:
        sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """Write no more: the interpreter would complain at its own last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
