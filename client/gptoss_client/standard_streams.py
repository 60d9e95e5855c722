"""Standard output and error, as a command leaves them.

Stage: from a command's begin to its end.
Owns: what happens where they lack a sign, where nobody reads them, where they cannot be written.
Does not know: what is printed.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Final

BROKEN_PIPE: Final = 141  # what a shell reports of a command ended by SIGPIPE


def never_fail_to_encode() -> None:
    """Print a question mark for what the encoding lacks: no server is to end for a spinner's sign."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else it is closed, or a test's
            stream.reconfigure(errors="replace")


def flush_output() -> None:
    """Bring out what was printed. Raises OSError; what could not be written is dropped then."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        drop_output()
        raise


def drop_output() -> None:
    """Write no more: the interpreter would complain at its own last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
