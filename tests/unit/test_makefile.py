"""`make setup`: what it asks of Python before it makes anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_backend.settings import PROJECT_ROOT
from gptoss_client.triton_runtime import assemble, find_wheel

# a Python of another version, with its shared library elsewhere, that ends where an environment would be made
FAKE_PYTHON = """\
#!{real}
import sys, sysconfig
if "-c" not in sys.argv:
    sys.exit("here it would make an environment" if "venv" in sys.argv else 0)
sys.platform = "{platform}"
sys.version_info = ({minor[0]}, {minor[1]}, 0, "final", 0)
sys.base_prefix = "{folder}/base"
sysconfig.get_config_var = {{"LIBDIR": "{folder}/lib", "MULTIARCH": "x86_64-linux-gnu"}}.get
exec(sys.argv[sys.argv.index("-c") + 1])
"""


def python_of(folder: Path, version: tuple[int, int], *, library: str | None = None, platform: str = "linux") -> Path:
    """Make a Python of that version and platform. library: the folder of its libpython; None: it has none."""
    python = folder / "bin" / "fake-python"
    python.parent.mkdir()
    text = FAKE_PYTHON.format(real=sys.executable, folder=folder, minor=version, platform=platform)
    python.write_text(text, encoding="utf-8")
    python.chmod(0o755)
    if library is not None:
        (folder / library).mkdir(parents=True)
        (folder / library / f"libpython{version[0]}.{version[1]}.so.1.0").touch()
    return python


def setup(folder: Path, *options: str, path: str = "/usr/bin:/bin") -> str:
    """Run `make setup` in a project that holds nothing but its Makefile; return what it complains of first."""
    project = folder / "project"
    (project / "requirements").mkdir(parents=True)
    shutil.copy(PROJECT_ROOT / "Makefile", project)
    for file in ("requirements/lock.txt", "requirements/lock-hashed.txt", "pyproject.toml"):
        (project / file).touch()
    made = subprocess.run(
        ("make", "setup", *options), cwd=project, env={"PATH": path}, capture_output=True, text=True, check=False
    )
    assert made.returncode != 0
    assert ("making .venv" in made.stdout) == (project / ".venv").exists()
    return made.stderr.splitlines()[0]


@pytest.mark.parametrize("library", ["lib", "lib/x86_64-linux-gnu", "base/lib", "base/lib/x86_64-linux-gnu"])
@pytest.mark.parametrize("version", [(3, 11), (3, 13)])
def test_setup_when_python_has_its_shared_library_then_the_environment_is_made(
    tmp_path: Path, version: tuple[int, int], library: str
) -> None:
    python = python_of(tmp_path, version, library=library)

    assert setup(tmp_path, f"PYTHON={python}") == "here it would make an environment"


def test_setup_when_python_lacks_its_shared_library_then_it_says_so_before_anything_is_made(tmp_path: Path) -> None:
    said = setup(tmp_path, f"PYTHON={python_of(tmp_path, (3, 11))}")

    assert said.endswith(
        "has no libpython3.11.so.1.0, which Triton's Python backend links: on Debian and Ubuntu, "
        "apt install libpython3.11; elsewhere use a Python built with --enable-shared"
    )


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ((3, 14), "error: Triton's Python backend has no stub for Python 3.14 "),
        ((3, 10), "error: GPT-OSS on Triton needs Python 3.11, 3.12 or 3.13, but "),
    ],
)
def test_setup_when_python_is_too_new_or_too_old_then_it_says_so_before_anything_is_made(
    tmp_path: Path, version: tuple[int, int], words: str
) -> None:
    python = python_of(tmp_path, version, library="lib")

    assert setup(tmp_path, f"PYTHON={python}").startswith(words)


@pytest.mark.parametrize("platform", ["darwin", "win32", "cygwin"])
def test_setup_when_the_system_is_not_linux_then_that_is_said_before_all_else(tmp_path: Path, platform: str) -> None:
    said = setup(tmp_path, f"PYTHON={python_of(tmp_path, (3, 10), platform=platform)}")

    assert said.startswith("error: tritonserver runs on Linux only (Windows: in WSL 2): elsewhere take Docker, ")
    command = said[said.index("docker compose") :]
    assert all((PROJECT_ROOT / word).exists() for word in command.split() if word.startswith("docker/"))
    assert "docker/compose.cpu.yaml" in command


def test_setup_when_another_tritonserver_would_run_then_its_stubs_are_not_judged(tmp_path: Path) -> None:
    python = python_of(tmp_path, (3, 14))
    (python.parent / "tritonserver").touch(mode=0o755)

    said = setup(tmp_path, f"PYTHON={python}", path=f"{python.parent}:/usr/bin:/bin")

    assert said == "here it would make an environment"


def test_setup_when_no_python_is_named_then_it_takes_the_first_that_can_serve(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    newer = python_of(tmp_path / "new", (3, 14), library="lib").rename(tmp_path / "new" / "bin" / "python3")
    (tmp_path / "fit").mkdir()
    fit = python_of(tmp_path / "fit", (3, 12), library="lib").rename(tmp_path / "fit" / "bin" / "python3.12")
    tools = tmp_path / "tools"  # those that the recipe calls, and no Python beside them
    tools.mkdir()
    for tool in ("make", "sh", "cat", "test", "mkdir", "touch", "rm", "echo"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    path = os.pathsep.join(map(str, (newer.parent, fit.parent, tools)))

    assert setup(tmp_path, path=path) == "here it would make an environment"
    assert setup(tmp_path / "none", path=f"{newer.parent}{os.pathsep}{tools}").startswith(
        "error: GPT-OSS on Triton needs Python 3.11, 3.12 or 3.13, on Linux: install one"
    )


def test_setup_when_the_check_is_run_by_the_python_of_these_tests_then_it_passes_as_serving_here_does(
    tmp_path: Path,
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in *venv*) echo made >&2; exit 1;; esac\nexec {sys.executable} "$@"\n', encoding="utf-8"
    )
    python.chmod(0o755)

    assert assemble(find_wheel(), tmp_path / ".triton").libraries
    assert setup(tmp_path, f"PYTHON={python}") == "made"


def test_clean_when_responses_and_reports_are_kept_in_the_run_directory_then_they_stay(tmp_path: Path) -> None:
    shutil.copy(PROJECT_ROOT / "Makefile", tmp_path)
    kept = ("responses.sqlite", "responses.sqlite-wal", "load/report.html")
    for name in (*kept, "config.yaml", "logs/triton.log"):
        (tmp_path / ".run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".run" / name).touch()

    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)

    left = {str(path.relative_to(tmp_path / ".run")) for path in (tmp_path / ".run").rglob("*") if path.is_file()}
    assert left == set(kept)


def test_lock_when_it_is_told_with_hashes_then_it_is_the_same_and_each_package_has_some() -> None:
    folder = PROJECT_ROOT / "requirements"
    plain, hashed = (
        [line for line in (folder / name).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
        for name in ("lock.txt", "lock-hashed.txt")
    )
    assert [line.partition(" ")[0] for line in hashed] == plain
    for line in hashed:
        assert re.fullmatch(r"\S+( --hash=sha256:[0-9a-f]{64})+", line), line
