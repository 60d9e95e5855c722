"""Whether what serving runs on is installed, and is for this machine: Python, Triton, torch, a compiler.

Stage: `gptoss doctor`.
Owns: what is said of each.
Does not know: which builds of torch are for which cards (doctor_cuda.py), how a tritonserver is found.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from gptoss_backend.engine.native import library
from gptoss_backend.settings import ServerSettings
from gptoss_client.doctor_cuda import (
    driver_for,
    find_compiler,
    is_built_for,
    python_header,
    torch_for_card,
    torch_for_driver,
)
from gptoss_client.doctor_examination import Examination
from gptoss_client.doctor_findings import Finding, Level
from gptoss_client.errors import RuntimeMissingError
from gptoss_client.triton_command import exposure
from gptoss_client.triton_runtime import WHEEL, find_runtime, find_wheel


def examine_python() -> Finding:
    """Tell which interpreter serves."""
    # which versions serve, the next check tells: the server needs a stub built for this one
    return Finding("Python", Level.OK, f"{platform.python_version()} ({sys.executable})")


def examine_triton(server: ServerSettings) -> Finding:
    """Look for a tritonserver, and whether one with known holes would listen to the network."""
    try:
        runtime = find_runtime()
        version = f" ({WHEEL} {find_wheel().version})" if runtime.is_of_wheel else _version_beside(runtime.binary)
    except RuntimeMissingError as error:
        return Finding("Triton", Level.PROBLEM, str(error), "make setup installs what is missing")
    if sentence := exposure(server, runtime):
        words, _, remedy = sentence.rpartition(": ")
        return Finding("Triton", Level.WARNING, f"{runtime.binary}{version}: {words}", remedy)
    return Finding("Triton", Level.OK, f"{runtime.binary}{version}")


def examine_torch(examination: Examination) -> Finding:
    """See that torch can be imported, and that its build is for the driver and every card that serves."""
    facts = examination.torch_facts
    if "error" in facts:
        return Finding("torch", Level.PROBLEM, f"cannot be imported: {facts['error']}", "make clean, then make setup")
    words = f"{facts['version']}, " + (f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs")
    if not examination.gpus:
        return Finding("torch", Level.OK, words)
    driver, architectures = examination.gpus[0].driver, facts["architectures"]
    if facts["cuda"] is None:
        return Finding("torch", Level.PROBLEM, f"{words}, though there is a GPU", torch_for_driver(driver))
    if not facts["sees_gpu"]:
        remedy = f"install {driver_for(facts['cuda'])}, or another build: {torch_for_driver(driver)}"
        return Finding("torch", Level.PROBLEM, f"{words}, sees no GPU with driver {driver}", remedy)
    for position, (name, (major, minor)) in enumerate(facts["capabilities"]):
        if position not in examination.left_out and not is_built_for((major, minor), architectures):
            words += f", but not for {name} (compute capability {major}.{minor})"
            return Finding("torch", Level.PROBLEM, words, torch_for_card((major, minor), architectures))
    return Finding("torch", Level.OK, words)


def examine_compiler(examination: Examination) -> Finding:
    """Find what Triton-language compiles its driver with, when the engine's first kernel starts."""
    compiler, header = find_compiler(examination.environment), python_header()
    lacking = [] if compiler else [f"C compiler ({examination.environment.get('CC', 'gcc or clang')})"]
    lacking += [] if header.exists() else [str(header)]
    if not lacking:
        return Finding("compiler", Level.OK, f"{compiler}, with {header}")
    words = f"there is no {' and no '.join(lacking)}: Triton-language compiles a part of itself on a GPU"
    return Finding("compiler", Level.PROBLEM, words, "on Debian and Ubuntu: apt install gcc python3-dev")


def examine_kernels(examination: Examination) -> Finding:
    """Find what computes where there is no GPU: C++ kernels, which a compiler builds, or torch."""
    if (why := examination.why_no_kernels) is None:
        instruction_set, compiler = library.instruction_set_here(), library.find_compiler()
        assert instruction_set is not None  # noqa: S101 (that would be a reason)
        words = f"C++ ({instruction_set.name}), which {compiler} builds at the first start"
        return Finding("kernels", Level.OK, words)
    words = f"torch computes, since {why}: slower than C++ kernels, and experts take three times the memory"
    remedy = "on Debian and Ubuntu: apt install g++" if "compiler" in why else ""
    return Finding("kernels", Level.WARNING, words, remedy)


def _version_beside(binary: Path) -> str:
    """Return the version that NVIDIA's image keeps beside its server."""
    try:
        return f" ({(binary.parent.parent / 'TRITON_VERSION').read_text(encoding='utf-8').strip()})"
    except OSError:
        return ""
