"""The report in characters: aligned for the console, and as Markdown.

Stage: after the last answer.
Owns: how tables are laid out in characters, and the order of the report.
Does not know: which figures are told (tables).
"""

from __future__ import annotations

from load.report.summary import Summary
from load.report.tables import (
    Table,
    circumstances,
    fault_table,
    headline,
    latency_table,
    outcome_sentence,
    target_table,
)


def render(summary: Summary) -> str:
    """Return the summary as lines for the console."""
    lines = [outcome_sentence(summary), ", ".join(f"{name} {value}" for value, name in headline(summary))]
    lines += [f"{fault} ({count} times)" for count, fault in fault_table(summary).rows]
    return "\n".join([*lines, "", *aligned(target_table(summary))])


def as_markdown(summary: Summary) -> str:
    """Return the report; the pictures are in the page beside it."""
    parts = [
        "# Load report",
        outcome_sentence(summary) + ". Pictures: [report.html](report.html); every chat: [chats.csv](chats.csv).",
        "## Service targets",
        markdown_table(target_table(summary)),
        "## Figures",
        "\n".join(f"- {name}: **{value}**" for value, name in headline(summary)),
        markdown_table(latency_table(summary)),
        "## Circumstances",
        "\n".join(f"- {name}: {value}" for name, value in circumstances(summary)),
    ]
    if summary.faults:
        parts += ["## Failures", markdown_table(fault_table(summary))]
    return "\n\n".join(parts) + "\n"


def aligned(table: Table) -> list[str]:
    """Return a table's lines, columns as wide as their widest cell."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]


def markdown_table(table: Table) -> str:
    """Return a table as Markdown."""
    rows = [table.header, tuple("---" for _ in table.header), *table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
