"""The C++ library: built where it runs, loaded through ctypes.

Stage: start-up. Owns: which instruction set this machine has, the compiler's flags, the cache of what was built, the
mirror of the C structs in abi.h. Does not know: models, batches.

The library is plain C at its surface and links against no Python or torch: building it takes seconds and a compiler.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_FOLDER: Final = Path(__file__).parent
_SOURCE: Final = _FOLDER / "forward.cpp"
_FLAGS: Final = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
    *("-mtune=native", "-fno-math-errno", "-Wno-maybe-uninitialized"),
)
_COMPILERS: Final = ("g++", "c++", "clang++")
_BUILD_TIMEOUT_S: Final = 300.0


class NativeUnavailableError(Exception):
    """The library cannot be used here. The message says why, in one sentence."""


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What the library can be built for; a header of the C++ code each."""

    name: str
    features: tuple[str, ...]
    """As /proc/cpuinfo has them."""

    @property
    def compiler_flags(self) -> tuple[str, ...]:
        """Return the flags that allow these instructions and no others."""
        return tuple(f"-m{feature.replace('_', '')}" for feature in self.features)


AVX512: Final = InstructionSet(
    "AVX-512 BF16", ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "avx512_vnni", "fma")
)
AVX2: Final = InstructionSet("AVX2", ("avx2", "fma"))
INSTRUCTION_SETS: Final = (AVX512, AVX2)
"""The fastest first, and last the one that asks least."""


class ShapeStruct(ctypes.Structure):
    """`Shape` in abi.h."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("vocab_size", "hidden_size", "intermediate_size", "num_layers")),
        *((name, ctypes.c_int32) for name in ("num_heads", "num_kv_heads", "head_dim")),
        *((name, ctypes.c_int32) for name in ("num_experts", "num_experts_per_token", "sliding_window")),
        *((name, ctypes.c_float) for name in ("rms_norm_eps", "swiglu_alpha", "swiglu_limit", "rope_amplitude")),
    )


class LayerSourceStruct(ctypes.Structure):
    """`LayerSource` in abi.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("attention_norm", "qkv", "qkv_bias", "output", "output_bias", "sinks")),
        *((name, ctypes.c_void_p) for name in ("expert_norm", "router", "router_bias")),
        *((name, ctypes.c_void_p) for name in ("gate_up", "gate_up_scales", "gate_up_bias")),
        *((name, ctypes.c_void_p) for name in ("down", "down_scales", "down_bias")),
        ("is_sliding", ctypes.c_int32),
    )


class BatchStruct(ctypes.Structure):
    """`Batch` in abi.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "rows", "samples")),
        *((name, ctypes.c_void_p) for name in ("full_table", "sliding_table")),
        *((name, ctypes.c_int32) for name in ("num_tokens", "num_samples", "table_width")),
    )


def choose_instruction_set() -> InstructionSet:
    """Return the fastest that this processor has and the compiler knows, whose library is loaded then.

    Raises NativeUnavailableError where there is none.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NativeUnavailableError(f"there are no kernels for {platform.system()} on {platform.machine()}")
    fault = f"the processor lacks {', '.join(missing_features(INSTRUCTION_SETS[-1]))}"
    for instruction_set in INSTRUCTION_SETS:
        if missing_features(instruction_set):
            continue
        try:
            load_library(instruction_set)
        except NativeUnavailableError as error:  # GCC before 10 does not know AVX-512 BF16
            fault = str(error)
        else:
            return instruction_set
    raise NativeUnavailableError(fault)


def instruction_set_here() -> InstructionSet | None:
    """Return the fastest that this processor has; None where it has none. Builds nothing."""
    has_kernels = platform.system() == "Linux" and platform.machine() == "x86_64"
    return next((one for one in INSTRUCTION_SETS if has_kernels and not missing_features(one)), None)


def find_compiler() -> str | None:
    """Return what the library is built with; None where there is nothing."""
    return next((path for name in _COMPILERS if (path := shutil.which(name))), None)


def missing_features(instruction_set: InstructionSet) -> list[str]:
    """Return what this processor lacks of a set."""
    flags = set(_flags_of_processor())
    return [feature for feature in instruction_set.features if feature not in flags]


@cache
def load_library(instruction_set: InstructionSet) -> ctypes.CDLL:
    """Return the library for a set that this processor has, building it on first use: a few seconds, cached on disk.

    Raises NativeUnavailableError where it cannot be built.
    """
    library = _opened(_built(instruction_set))
    library.gptoss_create.restype = ctypes.c_void_p
    library.gptoss_create.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)
    library.gptoss_set_embedding.argtypes = (ctypes.c_void_p,) * 2
    library.gptoss_add_layer.argtypes = (ctypes.c_void_p,) * 2
    library.gptoss_set_unembedding.argtypes = (ctypes.c_void_p,) * 3
    library.gptoss_set_cache.argtypes = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)
    library.gptoss_forward.argtypes = (ctypes.c_void_p,) * 4
    library.gptoss_destroy.argtypes = (ctypes.c_void_p,)
    return library


def _flags_of_processor() -> list[str]:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            return line.split(":", 1)[1].split()
    return []


def _built(instruction_set: InstructionSet) -> Path:
    compiler = find_compiler()
    if compiler is None:
        raise NativeUnavailableError("there is no C++ compiler (Debian: apt-get install g++)")
    version = _run([compiler, "--version"])
    try:
        sources = [path.read_bytes() for path in [_SOURCE, *sorted(_FOLDER.glob("*.h"))]]
    except OSError as error:
        raise NativeUnavailableError(f"{_SOURCE.name} was not installed with the package") from error
    flags = (*_FLAGS, *instruction_set.compiler_flags)
    key = hashlib.sha256(b"\0".join([*sources, " ".join(flags).encode(), version.encode()])).hexdigest()
    library = _cache_folder() / f"forward-{key[:16]}.so"
    if not library.exists():
        logger.info("building the CPU kernels for %s with %s", instruction_set.name, compiler)
        try:
            # of a name of its own, renamed at once: others may be building it, too, in this container or another
            with tempfile.TemporaryDirectory(dir=library.parent, prefix="building-") as folder:
                partial = Path(folder) / library.name
                _run([compiler, *flags, "-o", str(partial), str(_SOURCE)])
                with partial.open("rb+") as written:
                    os.fsync(written)
                partial.rename(library)
        except OSError as error:
            raise NativeUnavailableError(f"there is no room for the CPU kernels: {error}") from error
    return library


def _opened(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        library.unlink(missing_ok=True)  # should it be damaged, the next start builds it anew
        raise NativeUnavailableError(f"the CPU kernels were built but cannot be loaded: {error}") from error


def _cache_folder() -> Path:
    """Return a folder that only this user can write to: what lies in it is executed."""
    try:
        folder = Path.home() / ".cache" / "gptoss"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        is_ours = status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)
    except (OSError, RuntimeError):  # the latter where nobody knows this user's home
        is_ours = False
    if is_ours:
        return folder
    try:
        return Path(tempfile.mkdtemp(prefix="gptoss-"))
    except OSError as error:
        raise NativeUnavailableError(f"there is no folder for the CPU kernels: {error}") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_BUILD_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        first = next((line for line in error.stderr.splitlines() if "error" in line), error.stderr.strip())
        raise NativeUnavailableError(f"{command[0]} cannot build the CPU kernels: {first}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(f"{command[0]} cannot build the CPU kernels: {error}") from error
    return done.stdout
