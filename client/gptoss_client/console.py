"""Where commands print.

Stage: the edge between a person and a command.
Owns: that texts are printed as they are: no line is wrapped, so that it can be copied, no bracket in it is taken for
markup and no `:100:` for an emoji.
Does not know: what is printed.
"""

from __future__ import annotations

from typing import Literal

from rich.console import Console


def plain_console(*, stderr: bool = False, color_system: Literal["auto"] | None = "auto") -> Console:
    """Return a console for lines that are neither wrapped nor styled by what they say.

    color_system: None, no styles at all.
    """
    return Console(stderr=stderr, color_system=color_system, soft_wrap=True, markup=False, highlight=False, emoji=False)
