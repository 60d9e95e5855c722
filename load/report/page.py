"""The report as one page of HTML that needs nothing beside it: style and pictures are inside.

Stage: after the last answer.
Owns: the page's parts and their order.
Does not know: which figures are told (tables), what is plotted (charts).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Final

from load.report.summary import Summary
from load.report.tables import (
    HELD,
    VERDICT,
    Table,
    circumstances,
    fault_table,
    headline,
    latency_table,
    outcome_sentence,
    target_table,
)

_STYLE: Final = Path(__file__).with_name("style.css")
_PILLS: Final = {HELD[True]: "good", HELD[False]: "bad", HELD[None]: "none"}


def run_page(summary: Summary, charts: Sequence[str]) -> str:
    """Return a run's page."""
    verdict = "all service targets held" if summary.all_held else "a service target was broken"
    parts = [
        f"<h1>Load report: {verdict}</h1>",
        f"<p>{escape(summary.facts.model)} at {escape(summary.facts.host)}: {escape(outcome_sentence(summary))}</p>",
        cards(headline(summary)),
        section("Service targets", table_of(target_table(summary))),
        section("Pictures", f'<div class="charts">\n{chr(10).join(charts)}\n</div>'),
        section("Latency by kind of user", table_of(latency_table(summary), numbers=True)),
    ]
    if summary.faults:
        parts.append(section("Failures", table_of(fault_table(summary))))
    parts.append(section("Circumstances", facts_of(circumstances(summary))))
    return page("Load report", parts)


def page(title: str, parts: Sequence[str]) -> str:
    """Return a whole document."""
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, content: str) -> str:
    """Return a part of the page under a heading."""
    return f"<h2>{escape(title)}</h2>\n{content}"


def cards(figures: Sequence[tuple[str, str]]) -> str:
    """Return the figures to see first: (value, name)."""
    shown = "\n".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in figures
    )
    return f'<div class="cards">\n{shown}\n</div>'


def table_of(table: Table, *, numbers: bool = False) -> str:
    """Return a table; verdicts in it are coloured. numbers: all but its first column are aligned right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "\n".join(
        f"<tr>{''.join(_cell(cell, name) for cell, name in zip(row, table.header, strict=True))}</tr>"
        for row in table.rows
    )
    kind = ' class="numbers"' if numbers else ""
    return f'<div class="table"><table{kind}>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def facts_of(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and what they are."""
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts)
    return f'<dl class="card">\n{rows}\n</dl>'


def _cell(text: str, column: str) -> str:
    shown = escape(text)
    if column == VERDICT:
        shown = f'<span class="pill {_PILLS[text]}">{shown}</span>'
    return f"<td>{shown}</td>"
