"""What a GPU can show, measured within limits: parts that fail, hang and find no time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from load import gpu_session
from load.gpu_session import PARTS, Part, main, run, what_is_missing

_HANGS = "import os, signal, time; print('pid', os.getpid(), flush=True)"


def logged(folder: Path) -> list[str]:
    """Return what parts printed, without the lines that say which began and ended."""
    return [line for line in (folder / "log.txt").read_text().splitlines() if not line.startswith("==> ")]


def test_session_when_parts_fail_or_hang_then_the_others_run_and_all_that_was_printed_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = (
        Part("well", ("-c", "import gptoss_backend, load, support; print('measured')"), 30),
        Part("fails", ("-c", "print('half', flush=True); raise SystemExit(3)"), 30),
        Part("hangs", ("-c", f"{_HANGS}; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"), 3),
        Part("last", ("-c", "print('after')"), 30),
    )
    monkeypatch.setattr(gpu_session, "_PARTING_S", 1.0)
    started = time.monotonic()
    assert run(parts, 60, tmp_path) == 1
    assert time.monotonic() - started < 40
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    assert [line.rsplit(",", 1)[0] for line in summary] == [
        "well: well",
        "fails: status 3",
        "hangs: ran out of time",
        "last: well",
    ]
    # a GPU machine may hand back few files
    assert sorted(file.name for file in tmp_path.iterdir()) == ["log.txt", "summary.txt"]
    measured, half, pid, after = logged(tmp_path)
    assert (measured, half, after) == ("measured", "half", "after")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.removeprefix("pid ")), 0)


def test_part_when_its_time_ends_then_it_says_what_it_knows_before_it_goes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = f"{_HANGS}; signal.signal(signal.SIGINT, lambda *_: exit('what failed, and why')); time.sleep(60)"
    assert run((Part("slow", ("-c", code), 3),), 60, tmp_path) == 1
    assert logged(tmp_path)[1:] == ["what failed, and why"]
    assert "\nwhat failed, and why\n==> slow: ran out of time" in capfd.readouterr().out


def test_part_when_packages_lie_where_only_this_process_was_told_then_it_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "carried_along.py").write_text("print('found')")
    monkeypatch.syspath_prepend(tmp_path)
    assert run((Part("finds", ("-c", "import carried_along"), 30),), 60, tmp_path / "out") == 0
    assert logged(tmp_path / "out") == ["found"]


def test_session_when_modules_are_missing_then_all_of_them_are_named_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ours.py").write_text("import nor_this")
    monkeypatch.syspath_prepend(tmp_path)
    parts = [Part("one", ("-c", ""), 30, ("json", "not_there")), Part("other", ("-c", ""), 30, ("not_there", "ours"))]
    assert what_is_missing(parts) == ["No module named 'not_there'", "No module named 'nor_this'"]
    monkeypatch.setattr(gpu_session, "PARTS", parts)
    monkeypatch.setattr("sys.argv", ["gpu_session", "--out", str(tmp_path / "out")])
    assert main() == 1
    assert "No module named 'nor_this': nothing was run, pip install" in capfd.readouterr().out
    assert not (tmp_path / "out").exists()


def test_conftest_of_the_kernels_tests_when_nothing_of_an_adapter_is_installed_then_it_is_imported(
    tmp_path: Path,
) -> None:
    absent = ("fastapi", "httpx", "openai", "tritonclient", "uvicorn")
    code = f"import runpy, sys; sys.modules.update(dict.fromkeys({absent})); runpy.run_path('tests/unit/conftest.py')"
    assert run((Part("conftest", ("-c", code), 30),), 60, tmp_path) == 0, logged(tmp_path)


def test_session_when_its_time_is_over_then_the_rest_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_session, "_LEAST_S", 1e9)
    assert run((Part("one", ("-c", "raise SystemExit(1)"), 30),), 60, tmp_path) == 0
    assert (tmp_path / "summary.txt").read_text() == "one: no time was left\n"


def test_parts_when_they_name_files_then_these_are_there() -> None:
    root = Path(gpu_session.__file__).parents[1]
    for part in PARTS:
        module = part.arguments[1]
        assert module == "pytest" or (root / f"{module.replace('.', '/')}.py").is_file()
        assert all((root / name).exists() for name in part.arguments if name.startswith("tests/"))
        assert part.needs
    assert len({part.name for part in PARTS}) == len(PARTS)
    named = {name for part in PARTS for name in part.arguments}
    assert named >= {str(file.relative_to(root)) for file in (root / "tests/gpu").glob("test_*.py")}
