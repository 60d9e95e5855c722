"""Where commands print.

Stage: the edge between a person and a command.
Owns: that no line is wrapped, so that it can be copied, and no bracket in it taken for markup.
Does not know: what is printed.
"""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """Return a console for lines that are neither wrapped nor styled by what they say."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False)
