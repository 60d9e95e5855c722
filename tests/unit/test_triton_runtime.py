"""Finding tritonserver, and making a runnable one from a wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gptoss_client import triton_runtime
from gptoss_client.errors import RuntimeMissingError
from gptoss_client.triton_runtime import STUB, TritonRuntime, Wheel, assemble, find_runtime, find_wheel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel_in(folder: Path, *, pythons: tuple[str, ...] = (PYTHON,)) -> Wheel:
    """A wheel's layout, with words in place of programs."""
    server = folder / "pytriton" / "tritonserver"
    (server / "backends" / "python" / "__pycache__").mkdir(parents=True)
    (server / "backends" / "python" / "libtriton_python.so").write_text("backend")
    (server / "backends" / "python" / "triton_python_backend_utils.py").write_text("utils")
    for python in pythons:
        (server / "python_backend_stubs" / python).mkdir(parents=True)
        (server / "python_backend_stubs" / python / STUB).write_text(f"stub of {python}")
    return Wheel("9.9", server, folder / "libraries")


def installed_server(prefix: Path, *folders: str) -> Path:
    for folder in ("bin", *folders):
        (prefix / folder).mkdir(parents=True)
    binary = prefix / "bin" / "tritonserver"
    binary.touch(mode=0o755)
    return binary


# --- made from the wheel --------------------------------------------------------------------------------------------


def test_assemble_when_nothing_is_there_then_puts_the_backend_beside_the_stub_of_this_python(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel", pythons=("3.8", PYTHON))

    runtime = assemble(wheel, tmp_path / ".triton")

    assert runtime.backend_directory is not None
    backend = runtime.backend_directory / "python"
    files = {"libtriton_python.so": "backend", "triton_python_backend_utils.py": "utils", STUB: f"stub of {PYTHON}"}
    assert {file.name: file.read_text() for file in backend.iterdir()} == files
    assert os.access(backend / STUB, os.X_OK)
    assert runtime.binary == wheel.server / "bin" / "tritonserver"
    assert runtime.cache_directory == wheel.server / "caches"
    assert (runtime.libraries[1] / f"libpython{PYTHON}.so.1.0").exists()


def test_assemble_when_it_was_made_before_then_leaves_it_alone(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel")
    first = assemble(wheel, tmp_path / ".triton")
    assert first.backend_directory is not None
    before = (first.backend_directory / "python" / STUB).stat()

    assert assemble(wheel, tmp_path / ".triton") == first
    assert (first.backend_directory / "python" / STUB).stat() == before


def test_assemble_when_an_earlier_run_was_interrupted_then_makes_it_whole(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel")
    (tmp_path / ".triton" / ".unfinished-1" / "backends" / "python").mkdir(parents=True)

    runtime = assemble(wheel, tmp_path / ".triton")

    assert runtime.backend_directory is not None
    assert (runtime.backend_directory / "python" / STUB).exists()


def test_assemble_when_copying_fails_then_leaves_nothing_that_looks_made(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel")
    (wheel.server / "backends" / "python").rename(wheel.server / "gone")

    with pytest.raises(RuntimeMissingError, match=r"cannot make tritonserver runnable in .*: No such file"):
        assemble(wheel, tmp_path / ".triton")

    assert list((tmp_path / ".triton").iterdir()) == []


def test_assemble_when_the_wheel_has_no_stub_for_this_python_then_names_those_it_has(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel", pythons=("3.10", "3.8"))

    with pytest.raises(RuntimeMissingError, match=rf"no stub for Python {PYTHON}, only for 3\.8, 3\.10: run `make"):
        assemble(wheel, tmp_path / ".triton")


def test_assemble_when_this_python_has_no_shared_library_then_says_what_to_do(tmp_path: Path) -> None:
    wheel = wheel_in(tmp_path / "wheel", pythons=("3.99",))

    with pytest.raises(RuntimeMissingError, match=r"has no libpython3\.99\.so\.1\.0.*--enable-shared"):
        assemble(wheel, tmp_path / ".triton", (3, 99))


def test_find_wheel_when_it_is_not_installed_then_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_runtime, "WHEEL", "no-such-wheel")

    with pytest.raises(RuntimeMissingError, match="there is no tritonserver: run `make setup`"):
        find_wheel()


def test_find_wheel_when_set_up_then_its_server_can_be_run() -> None:
    wheel = find_wheel()

    assert os.access(wheel.server / "bin" / "tritonserver", os.X_OK)
    assert (wheel.server / "python_backend_stubs" / PYTHON / STUB).exists()
    assert wheel.libraries.is_dir()


# --- found ----------------------------------------------------------------------------------------------------------


def test_find_when_one_is_on_path_then_takes_it_with_what_lies_beside_it(tmp_path: Path) -> None:
    binary = installed_server(tmp_path / "own", "backends")

    runtime = find_runtime(str(binary.parent), image=tmp_path / "none")

    assert runtime == TritonRuntime(binary, backend_directory=tmp_path / "own" / "backends", cache_directory=None)


def test_find_when_this_is_nvidias_image_then_takes_its_server(tmp_path: Path) -> None:
    binary = installed_server(tmp_path / "opt", "backends", "caches")

    runtime = find_runtime(str(tmp_path), image=tmp_path / "opt")

    assert runtime == TritonRuntime(binary, tmp_path / "opt" / "backends", tmp_path / "opt" / "caches")


def test_find_when_there_is_none_then_makes_one_in_the_project(tmp_path: Path) -> None:
    runtime = find_runtime(str(tmp_path), image=tmp_path / "none", root=tmp_path)

    assert runtime.backend_directory is not None
    assert runtime.backend_directory.parent == tmp_path / ".triton"


# --- the environment ------------------------------------------------------------------------------------------------


def test_environment_when_made_then_stubs_find_this_python_first_and_keep_what_was_there(tmp_path: Path) -> None:
    runtime = TritonRuntime(tmp_path / "tritonserver", libraries=(tmp_path / "a", tmp_path / "b"))

    environment = runtime.environment({"PATH": "/usr/bin", "LD_LIBRARY_PATH": "/cuda", "HOME": "/root"})

    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert environment["LD_LIBRARY_PATH"] == f"{tmp_path}/a:{tmp_path}/b:/cuda"
    assert environment["HOME"] == "/root"
    assert any((Path(folder) / "gptoss_backend").is_dir() for folder in environment["PYTHONPATH"].split(":"))


def test_runtime_when_the_projects_path_has_a_space_then_a_sentence_says_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeMissingError, match="a folder with a space in its path"):
        find_runtime(root=tmp_path / "my gptoss")
