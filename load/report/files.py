"""The report's folder.

Stage: after the last answer.
Owns: which files there are, and what programs read of a run.
Does not know: what is in the page.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from load.records import ChatRecord
from load.report.charts import run_charts
from load.report.page import run_page
from load.report.summary import Summary
from load.report.text import as_markdown

PAGE: Final = "report.html"
MARKDOWN: Final = "report.md"
SUMMARY: Final = "summary.json"
CHATS: Final = "chats.csv"


def write_run(folder: Path, records: Sequence[ChatRecord], summary: Summary) -> Path:
    """Write a run's report into `folder`, which is made where it is not there. Return its page."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / CHATS).open("w", newline="", encoding="utf-8") as file:
        _write_rows(file, records)
    (folder / SUMMARY).write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
    (folder / MARKDOWN).write_text(as_markdown(summary), encoding="utf-8")
    (folder / PAGE).write_text(run_page(summary, run_charts(records, summary.facts)), encoding="utf-8")
    return folder / PAGE


def read_summary(folder: Path) -> dict[str, Any]:
    """Return what `write_run` wrote for programs: a Summary's fields."""
    document: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return document


def _write_rows(file: Any, records: Iterable[ChatRecord]) -> None:  # noqa: ANN401 (csv has no public type for it)
    writer = csv.writer(file)
    writer.writerow(ChatRecord._fields)
    writer.writerows(records)
