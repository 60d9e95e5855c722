"""`gptoss doctor`: whether `gptoss serve` would work here, and what to do where it would not.

Stage: before the start of a server; changes nothing.
Owns: the checks, their order, and what they say.
Does not know: how a checkpoint is laid out, how a server is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from gptoss_backend.environment import child_environment
from gptoss_backend.hub import is_repository
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import ServerSettings, Settings
from gptoss_client.addresses import listeners
from gptoss_client.checkpoint import DEMO, find_checkpoint, missing
from gptoss_client.doctor_checkpoint import BrokenCheckpointError, whole_checkpoint_bytes
from gptoss_client.doctor_cuda import (
    driver_for,
    find_compiler,
    is_built_for,
    python_header,
    torch_for_card,
    torch_for_driver,
)
from gptoss_client.errors import CommandError, DriverError, PortError, RuntimeMissingError, UsageError
from gptoss_client.gpu import Gpu, has_nvidia_gpu, list_gpus
from gptoss_client.placing import place, with_num_replicas
from gptoss_client.ports import Listener, check_ports
from gptoss_client.run_state import RunDirectory
from gptoss_client.triton_command import exposure
from gptoss_client.triton_runtime import WHEEL, find_runtime, find_wheel

_GIB: Final = 2**30
_GB: Final = 10**9
# bytes of the weights as published, for where there are none to measure
_PUBLISHED_BYTES: Final[dict[ModelShort, int]] = {"demo": 212_000_000, "20b": 13_761_000_000, "120b": 65_249_000_000}
_WORK_BYTES: Final = 2 * _GIB  # activations, the smallest KV cache of use, torch itself
_LOW_DISK_BYTES: Final = 1 * _GIB  # logs and kept responses
_PROBE_TIMEOUT_S: Final = 120.0
# in a process of its own: the client never loads torch, and a broken one may take its process with it
_TORCH_PROBE: Final = """
import json, torch
from gptoss_backend.engine.memory import available_bytes
sees_gpu = torch.cuda.is_available()
cards = range(torch.cuda.device_count()) if sees_gpu else ()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "sees_gpu": sees_gpu,
                  "capabilities": [(torch.cuda.get_device_name(i), torch.cuda.get_device_capability(i)) for i in cards],
                  "architectures": torch.cuda.get_arch_list(),
                  "host_bytes": available_bytes(torch.device("cpu"))}))
"""


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    subject: str
    level: Level
    words: str
    remedy: str = ""


def diagnose(settings: Settings) -> list[Finding]:
    """Run every check for serving with these settings (with absolute paths). Blocks for some seconds."""
    return list(_Examination(settings).findings())


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


class _Examination:
    """One look at this machine; what several checks need is asked for once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models = settings.served_models
        self._run = RunDirectory(settings.server.run_dir)
        self._environment = child_environment(self._run.config)

    def findings(self) -> Iterator[Finding]:
        yield self._python()
        yield self._triton()
        yield self._torch()
        yield self._gpu()
        if self._gpus:
            yield self._compiler()
        yield from map(self._checkpoint_there, self._models)
        yield from self._placement()
        yield self._memory()
        yield self._disk()
        yield from self._ports()

    @cached_property
    def _gpus(self) -> list[Gpu]:
        return list_gpus(self._environment)

    @cached_property
    def _placed(self) -> Settings | UsageError:
        """The settings with the number of replicas, or why the models cannot be placed so."""
        try:
            return with_num_replicas(self._settings, self._environment)
        except DriverError:  # which another check tells
            return self._settings
        except UsageError as error:
            return error

    @cached_property
    def _left_out(self) -> set[int]:
        """The cards that do not serve, by their place among those that a process sees."""
        with contextlib.suppress(CommandError):  # which another check tells
            if shares := place(self._settings, self._environment).shares:
                return set(range(len(self._gpus))).difference(*shares)
        return set()

    @property
    def _server(self) -> ServerSettings:
        return self._settings.server if isinstance(self._placed, UsageError) else self._placed.server

    @cached_property
    def _torch_facts(self) -> Mapping[str, Any]:
        """What torch says of itself; empty but for `error` where it cannot be imported."""
        command = (sys.executable, "-c", _TORCH_PROBE)
        try:
            probe = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
            )
            facts: dict[str, Any] = json.loads(probe.stdout)
        except subprocess.CalledProcessError as error:
            return {"error": error.stderr.strip().rpartition("\n")[2]}
        except (subprocess.TimeoutExpired, ValueError) as error:
            return {"error": str(error)}
        return facts

    @cached_property
    def _folders(self) -> Mapping[ModelShort, Path | None]:
        return {model: find_checkpoint(self._settings.checkpoints[model]) for model in self._models}

    @property
    def _names(self) -> str:
        return " and ".join(self._models)

    def _weights_bytes(self, model: ModelShort) -> int:
        """Return those of the checkpoint, or of the published one where it cannot be measured."""
        if (folder := self._folders[model]) is not None:
            try:
                return whole_checkpoint_bytes(folder)
            except BrokenCheckpointError:
                pass
        return _PUBLISHED_BYTES[model]

    # --- software ---------------------------------------------------------------------------------------------------

    def _python(self) -> Finding:
        # which versions serve, the next check tells: the server needs a stub built for this one
        return Finding("Python", Level.OK, f"{platform.python_version()} ({sys.executable})")

    def _triton(self) -> Finding:
        try:
            runtime = find_runtime()
            version = f" ({WHEEL} {find_wheel().version})" if runtime.is_of_wheel else _version_beside(runtime.binary)
        except RuntimeMissingError as error:
            return Finding("Triton", Level.PROBLEM, str(error), "make setup installs what is missing")
        if sentence := exposure(self._settings.server, runtime):
            words, _, remedy = sentence.rpartition(": ")
            return Finding("Triton", Level.WARNING, f"{runtime.binary}{version}: {words}", remedy)
        return Finding("Triton", Level.OK, f"{runtime.binary}{version}")

    def _torch(self) -> Finding:
        facts = self._torch_facts
        if "error" in facts:
            return Finding(
                "torch", Level.PROBLEM, f"cannot be imported: {facts['error']}", "make clean, then make setup"
            )
        words = f"{facts['version']}, " + (f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs")
        if not self._gpus:
            return Finding("torch", Level.OK, words)
        driver, architectures = self._gpus[0].driver, facts["architectures"]
        if facts["cuda"] is None:
            return Finding("torch", Level.PROBLEM, f"{words}, though there is a GPU", torch_for_driver(driver))
        if not facts["sees_gpu"]:
            remedy = f"install {driver_for(facts['cuda'])}, or another build: {torch_for_driver(driver)}"
            return Finding("torch", Level.PROBLEM, f"{words}, sees no GPU with driver {driver}", remedy)
        for position, (name, (major, minor)) in enumerate(facts["capabilities"]):
            if position not in self._left_out and not is_built_for((major, minor), architectures):
                words += f", but not for {name} (compute capability {major}.{minor})"
                return Finding("torch", Level.PROBLEM, words, torch_for_card((major, minor), architectures))
        return Finding("torch", Level.OK, words)

    # --- hardware ---------------------------------------------------------------------------------------------------

    def _gpu(self) -> Finding:
        if self._gpus:
            cards = "; ".join(
                f"{gpu.index}: {gpu.name}, {gpu.free_bytes / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free"
                for gpu in self._gpus
            )
            left_out = ", ".join(str(self._gpus[position].index) for position in sorted(self._left_out))
            return Finding(
                "GPU",
                Level.OK,
                f"{cards}; driver {self._gpus[0].driver}" + (f"; left out: {left_out}" if left_out else ""),
            )
        remedy = "see that nvidia-smi works (driver installed, container started with GPUs)"
        try:
            if has_nvidia_gpu(self._environment):
                return Finding("GPU", Level.PROBLEM, "there is one, but its driver does not answer", remedy)
        except DriverError as error:
            return Finding("GPU", Level.PROBLEM, f"not known, since {error}", remedy)
        if self._models == (DEMO,):
            return Finding("GPU", Level.OK, "none, and none is needed for the demo")
        remedy = (
            "it will be slow; on a machine that has a GPU, see that nvidia-smi works and CUDA_VISIBLE_DEVICES shows it"
        )
        return Finding("GPU", Level.WARNING, f"none: {self._names} will be computed on the CPU", remedy)

    def _compiler(self) -> Finding:
        """Find what Triton-language compiles its driver with, when the engine's first kernel starts."""
        compiler, header = find_compiler(self._environment), python_header()
        lacking = [] if compiler else [f"C compiler ({self._environment.get('CC', 'gcc or clang')})"]
        lacking += [] if header.exists() else [str(header)]
        if not lacking:
            return Finding("compiler", Level.OK, f"{compiler}, with {header}")
        words = f"there is no {' and no '.join(lacking)}: Triton-language compiles a part of itself on a GPU"
        return Finding("compiler", Level.PROBLEM, words, "on Debian and Ubuntu: apt install gcc python3-dev")

    def _memory(self) -> Finding:
        num_replicas = self._server.num_tritonservers
        needed = num_replicas * sum(self._weights_bytes(model) + _WORK_BYTES for model in self._models)
        if self._gpus:
            used = (gpu for position, gpu in enumerate(self._gpus) if position not in self._left_out)
            free, where = sum(gpu.free_bytes for gpu in used), "GPU memory"
            remedy = "end what else uses the GPU (nvidia-smi), show more GPUs, or serve a smaller --model"
        elif "host_bytes" in self._torch_facts:
            free, where = self._torch_facts["host_bytes"], "memory"
            remedy = "end other programs, raise the container's limit, or serve a smaller --model"
        else:
            return Finding("memory", Level.WARNING, "not known, since torch cannot be imported")
        needs = "needs" if len(self._models) == num_replicas == 1 else "need"
        what = self._names if num_replicas == 1 else f"{num_replicas} replicas of {self._names}"
        words = f"{free / _GIB:.1f} GiB of {where} free, {what} {needs} about {needed / _GIB:.1f} GiB"
        return Finding("memory", Level.OK, words) if free >= needed else Finding("memory", Level.PROBLEM, words, remedy)

    def _placement(self) -> Iterator[Finding]:
        if isinstance(self._placed, UsageError):
            yield _split(str(self._placed), "placement")
        elif (num_replicas := self._server.num_tritonservers) > 1:
            yield Finding("placement", Level.OK, f"{num_replicas} replicas, a tritonserver each")

    # --- files ------------------------------------------------------------------------------------------------------

    def _checkpoint_there(self, model: ModelShort) -> Finding:
        name, folder = self._settings.checkpoints[model], self._folders[model]
        if folder is None and model == DEMO:
            return Finding("checkpoint", Level.OK, f"{name} will be made at the first start")
        if folder is None:
            return _split(missing(model, name), "checkpoint")
        try:
            size = whole_checkpoint_bytes(folder)
        except BrokenCheckpointError as error:
            remedy = f"gptoss pull {name}" if is_repository(name) else "copy or make it anew"
            return Finding("checkpoint", Level.PROBLEM, str(error), remedy)
        return Finding("checkpoint", Level.OK, f"{folder}, whole, {size / _GB:.1f} GB of weights")

    def _disk(self) -> Finding:
        root = self._run.root
        place = next(folder for folder in (root, *root.parents) if folder.exists())
        if not os.access(place, os.W_OK):
            return Finding("disk", Level.PROBLEM, f"{place} cannot be written to", "choose another --run-dir")
        free = shutil.disk_usage(place).free
        words = f"{free / _GB:.1f} GB free for state and logs in {root}"
        if free < _LOW_DISK_BYTES:
            return Finding("disk", Level.WARNING, words, "make room, or choose another --run-dir")
        return Finding("disk", Level.OK, words)

    # --- ports ------------------------------------------------------------------------------------------------------

    def _ports(self) -> Iterator[Finding]:
        state = self._run.read_state()
        if state is not None and state.supervisor.find():
            words = f"a server already runs from {self._run.root} (pid {state.supervisor.pid})"
            yield Finding("server", Level.PROBLEM, words, "gptoss stop ends it; gptoss serve --replace takes its place")
            return
        wanted = listeners(self._server)
        taken = [finding for listener in wanted if (finding := _taken(listener))]
        free = Finding("ports", Level.OK, f"{', '.join(str(listener.port) for listener in wanted)} can be had")
        yield from taken or [free]


def _taken(listener: Listener) -> Finding | None:
    try:
        check_ports([listener])
    except PortError as error:
        return _split(f"{error}, or let --auto-port choose", "port")
    return None


def _split(sentence: str, subject: str) -> Finding:
    """Return a problem; what its sentence ends in after a colon is what to do."""
    words, colon, remedy = sentence.rpartition(": ")
    return Finding(subject, Level.PROBLEM, words, remedy) if colon else Finding(subject, Level.PROBLEM, sentence)


def _version_beside(binary: Path) -> str:
    """Return the version that NVIDIA's image keeps beside its server."""
    try:
        return f" ({(binary.parent.parent / 'TRITON_VERSION').read_text(encoding='utf-8').strip()})"
    except OSError:
        return ""
