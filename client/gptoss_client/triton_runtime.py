"""A tritonserver that this machine and this Python can run.

Stage: `make setup` (as `python -m gptoss_client.triton_runtime`) and the start of a server.
Owns: finding tritonserver, and making a runnable one from the nvidia-pytriton wheel in `.triton/`.
Does not know: models, ports, settings.

The wheel holds the server, its Python backend and one stub for each Python version, but not in the layout a server
reads: a backend directory has to hold the backend's files with the stub of the interpreter that runs the models.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_backend.settings import PROJECT_ROOT
from gptoss_client.console import plain_console
from gptoss_client.errors import RuntimeMissingError

WHEEL: Final = "nvidia-pytriton"
NVIDIA_IMAGE: Final = Path("/opt/tritonserver")
STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True, slots=True)
class TritonRuntime:
    """Where a runnable tritonserver and its parts are. None: where the server looks by itself."""

    binary: Path
    backend_directory: Path | None = None
    cache_directory: Path | None = None
    libraries: tuple[Path, ...] = ()
    """Folders of shared libraries the server and its stubs need."""

    @property
    def is_of_wheel(self) -> bool:
        """Whether it was made from the nvidia-pytriton wheel, whose tritonserver is 24.10."""
        return bool(self.libraries)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Return the variables under which the server's stubs run this Python with its packages and ours.

        A stub finds its environment by the `python3` that is first on PATH; one of another build reads PYTHONPATH.
        """
        return {
            **inherited,
            "PATH": _joined((Path(sys.executable).parent,), inherited.get("PATH")),
            "LD_LIBRARY_PATH": _joined(self.libraries, inherited.get("LD_LIBRARY_PATH")),
            "PYTHONPATH": _joined(_import_folders(), inherited.get("PYTHONPATH")),
        }


def find_runtime(
    search_path: str | None = None, *, image: Path = NVIDIA_IMAGE, root: Path = PROJECT_ROOT
) -> TritonRuntime:
    """Return a runnable tritonserver: the one on PATH, the one of NVIDIA's image, else one made from the wheel.

    search_path: in place of PATH. root: the project, whose `.triton/` holds what is made.
    Raises RuntimeMissingError.
    """
    if any(character.isspace() for character in str(root)):
        raise RuntimeMissingError(f"tritonserver cannot run from a folder with a space in its path: {str(root)!r}")
    installed = shutil.which("tritonserver", path=search_path) or shutil.which("tritonserver", path=str(image / "bin"))
    return _installed(Path(installed).resolve()) if installed else assemble(find_wheel(), root / ".triton")


def _installed(binary: Path) -> TritonRuntime:
    prefix = binary.parent.parent
    backends, caches = prefix / "backends", prefix / "caches"
    return TritonRuntime(binary, backends if backends.is_dir() else None, caches if caches.is_dir() else None)


# --- from the wheel -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wheel:
    """The installed nvidia-pytriton wheel, of which only the server is used."""

    version: str
    server: Path
    """The folder with bin/, backends/, caches/ and python_backend_stubs/."""
    libraries: Path


def find_wheel() -> Wheel:
    """Return the installed wheel. Raises RuntimeMissingError where there is none."""
    try:
        distribution = importlib.metadata.distribution(WHEEL)
    except importlib.metadata.PackageNotFoundError as error:
        raise RuntimeMissingError(
            f"there is no tritonserver: run `make setup`, which installs {WHEEL}, or put tritonserver on PATH"
        ) from error
    return Wheel(
        distribution.version,
        Path(str(distribution.locate_file("pytriton/tritonserver"))),
        Path(str(distribution.locate_file("nvidia_pytriton.libs"))),
    )


def assemble(wheel: Wheel, place: Path, python: tuple[int, int] = sys.version_info[:2]) -> TritonRuntime:
    """Return the wheel's server with a backend directory below `place`, made there if it is not there yet.

    The folder appears in one step, whole; an interrupted run leaves nothing that a later one would take for it.
    Raises RuntimeMissingError where the wheel has no stub for this Python, or this Python no shared library.
    """
    version = f"{python[0]}.{python[1]}"
    stub = _stub(wheel, version)
    libpython = _libpython_folder(version)
    made = place / f"{WHEEL}-{wheel.version}-python{version}"
    if not made.is_dir():
        try:
            _make_backend_directory(wheel, stub, made)
        except OSError as error:
            raise RuntimeMissingError(f"cannot make tritonserver runnable in {place}: {error.strerror}") from error
    return TritonRuntime(
        wheel.server / "bin" / "tritonserver", made, wheel.server / "caches", (wheel.libraries, libpython)
    )


def _stub(wheel: Wheel, version: str) -> Path:
    stubs = wheel.server / "python_backend_stubs"
    if not (stubs / version / STUB).is_file():
        versions = sorted((entry.name for entry in stubs.glob("3.*")), key=lambda name: int(name.split(".")[1]))
        raise RuntimeMissingError(
            f"{WHEEL} {wheel.version} has no stub for Python {version}, only for {', '.join(versions) or 'none'}: "
            "run `make clean` and then `make setup PYTHON=python3.11`"
        )
    return stubs / version / STUB


def _libpython_folder(version: str) -> Path:
    library = f"libpython{version}.so.1.0"
    folders = [Path(sysconfig.get_config_var("LIBDIR") or ""), Path(sys.base_prefix) / "lib"]
    folders += [folder / (sysconfig.get_config_var("MULTIARCH") or "") for folder in folders]
    for folder in folders:
        if (folder / library).exists():
            return folder
    raise RuntimeMissingError(
        f"this Python ({sys.executable}) has no {library}, which Triton's Python backend links: "
        f"use a Python built with --enable-shared (on Debian and Ubuntu: apt install libpython{version})"
    )


def _make_backend_directory(wheel: Wheel, stub: Path, made: Path) -> None:
    made.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=made.parent, prefix=".unfinished-") as unfinished:
        backend = Path(unfinished) / "backends" / "python"
        shutil.copytree(wheel.server / "backends" / "python", backend, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(stub, backend / STUB)
        (backend / STUB).chmod(0o755)
        try:
            backend.parent.rename(made)
        except OSError:
            if not made.is_dir():  # else another process was faster, with the same files
                raise


def _import_folders() -> tuple[Path, ...]:
    backend = importlib.util.find_spec("gptoss_backend")
    ours = (Path(backend.origin).parents[1],) if backend and backend.origin else ()
    return (*ours, Path(sysconfig.get_path("purelib")))


def _joined(folders: tuple[Path, ...], inherited: str | None) -> str:
    return os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])


def main() -> int:
    """Make tritonserver runnable and say which it is."""
    try:
        plain_console().print(f"tritonserver: {find_runtime().binary}")
    except RuntimeMissingError as error:
        plain_console(stderr=True).print(f"error: {error}")
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
