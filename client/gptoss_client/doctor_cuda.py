"""What a GPU needs beside a driver that answers: a torch built for both, and what Triton-language compiles with.

Stage: `gptoss doctor`.
Owns: which drivers and cards a CUDA build of torch is for, and where another one is; where the compiler and Python's
headers are looked for.
Does not know: what torch and the driver say of themselves.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

# The first driver for all releases of a major version: docs.nvidia.com/deploy/cuda-compatibility
_FIRST_DRIVERS: Final = {"12": 525, "13": 580}
# The builds of torch that we name: CUDA 12.6's is for compute capability 5.0 to 9.0, 13.0's for 7.5 and later.
_OLDER_BUILD: Final = "cu126"
_NEWER_BUILD: Final = "cu130"
_ARCHITECTURE: Final = re.compile(r"(sm|compute)_(\d+)(\d)")

Capability = tuple[int, int]


def driver_for(cuda: str) -> str:
    """Return what runs a build for this CUDA, "13.0" or the like, in words."""
    first = _FIRST_DRIVERS.get(cuda.partition(".")[0])
    return f"a driver that supports CUDA {cuda}" + (f" ({first} or newer)" if first else "")


def torch_for_driver(driver: str) -> str:
    """Return how to get a build that runs on this driver, "580.65.06" or the like."""
    major = driver.partition(".")[0]
    return _setup_with(_NEWER_BUILD if major.isdecimal() and int(major) >= _FIRST_DRIVERS["13"] else _OLDER_BUILD)


def torch_for_card(capability: Capability, architectures: Sequence[str]) -> str:
    """Return how to get a build for a card that the build for these architectures is not for."""
    is_newer = all(first <= capability for _, first in _built(architectures))
    return _setup_with(_NEWER_BUILD if is_newer else _OLDER_BUILD)


def is_built_for(capability: Capability, architectures: Sequence[str]) -> bool:
    """Tell whether a card runs what torch was built for, as `torch.cuda.get_arch_list` has it; True if that is empty.

    Machine code (sm_80) runs on the same major version from its minor one on, PTX (compute_80) on all later ones.
    """
    return not architectures or any(
        first <= capability and (kind == "compute" or first[0] == capability[0])
        for kind, first in _built(architectures)
    )


def find_compiler(environment: Mapping[str, str]) -> str | None:
    """Return the C compiler that Triton-language takes: CC, else gcc, else clang."""
    names = [environment["CC"]] if "CC" in environment else ["gcc", "clang"]
    return next((path for name in names if (path := shutil.which(name, path=environment.get("PATH")))), None)


def python_header() -> Path:
    """Return where Triton-language looks for Python.h."""
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme names a folder below /usr/local, where its headers are not
    return Path(sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]) / "Python.h"


def _setup_with(build: str) -> str:
    index = f"https://download.pytorch.org/whl/{build}"
    return f'make clean, then make setup TORCH_INSTALL="torch==2.13.0 --extra-index-url {index}"'


def _built(architectures: Sequence[str]) -> list[tuple[str, Capability]]:
    found = [match for name in architectures if (match := _ARCHITECTURE.match(name))]
    return [(match[1], (int(match[2]), int(match[3]))) for match in found]
