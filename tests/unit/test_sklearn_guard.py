"""With a broken scikit-learn in the environment, all that serves still imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_backend.settings import PROJECT_ROOT
from support.broken_sklearn import WORDS, write_broken_sklearn


def run_beside_broken_sklearn(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(write_broken_sklearn(folder))!r})\n{code}"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


def modules_of(room: str) -> list[str]:
    """Return every module of a room but those that only a stub can import, and those that are programs."""
    root = PROJECT_ROOT / room
    package = next(path.parent.name for path in root.glob("*/__init__.py"))
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in sorted(root.rglob("*.py"))]
    left_out = ("gptoss_backend.triton.",)
    return [
        name.removesuffix(".__init__")
        for name in names
        if name.startswith(package) and not name.startswith(left_out) and not name.endswith("__main__")
    ]


def test_broken_sklearn_when_it_is_imported_then_it_fails_as_one_for_numpy_1(tmp_path: Path) -> None:
    run = run_beside_broken_sklearn(
        tmp_path, "import importlib.metadata as m; print(m.version('scikit-learn')); import sklearn"
    )

    assert run.stdout == "1.3.0\n"
    assert run.stderr.endswith(f"ValueError: {WORDS}\n")


@pytest.mark.parametrize("room", ["backend", "adapter", "client"])
def test_room_when_sklearn_is_broken_then_every_module_imports_and_none_has_tried_it(tmp_path: Path, room: str) -> None:
    modules = modules_of(room)
    code = (
        f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print('sklearn' in sys.modules, any(name.startswith('transformers') for name in sys.modules))"
    )

    run = run_beside_broken_sklearn(tmp_path, code)

    assert len(modules) > 10
    assert (run.returncode, run.stdout) == (0, "False False\n"), run.stderr
