"""`gptoss doctor`: whether `gptoss serve` would work here, and what to do where it would not.

Stage: before the start of a server; changes nothing.
Owns: which checks there are, their order, and how findings are shown.
Does not know: what a check looks at (doctor_software.py, doctor_hardware.py, doctor_files.py, doctor_ports.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from gptoss_backend.settings import Settings
from gptoss_client.doctor_examination import Examination
from gptoss_client.doctor_files import examine_checkpoint, examine_disk
from gptoss_client.doctor_findings import Finding, Level
from gptoss_client.doctor_hardware import examine_gpu, examine_memory, examine_placement
from gptoss_client.doctor_ports import examine_connections, examine_ports
from gptoss_client.doctor_software import (
    examine_compiler,
    examine_kernels,
    examine_python,
    examine_torch,
    examine_triton,
)


def diagnose(settings: Settings) -> list[Finding]:
    """Run every check for serving with these settings (with absolute paths). Blocks for some seconds."""
    return list(_findings(Examination(settings)))


def exit_status(findings: Sequence[Finding]) -> int:
    """Return 0 where serving would work, else 1."""
    return int(any(finding.level is Level.PROBLEM for finding in findings))


def as_lines(findings: Sequence[Finding]) -> list[str]:
    """Return the findings for people: a line each, and one below it with what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8} {finding.subject:<11} {finding.words}")
        if finding.remedy:
            lines.append(f"{'':<20} → {finding.remedy}")
    return lines


def as_json(findings: Sequence[Finding]) -> str:
    """Return the findings as a JSON array."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)


def _findings(examination: Examination) -> Iterator[Finding]:
    yield examine_python()
    yield examine_triton(examination.settings.server)
    yield examine_torch(examination)
    yield examine_gpu(examination)
    yield examine_compiler(examination) if examination.gpus else examine_kernels(examination)
    for model in examination.models:
        yield examine_checkpoint(examination, model)
    yield from examine_placement(examination)
    yield examine_memory(examination)
    yield examine_disk(examination.run.root)
    yield from examine_ports(examination.run, examination.server)
    yield from examine_connections(examination.settings.model_copy(update={"server": examination.server}))
