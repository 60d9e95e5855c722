"""What a GPU can show, measured within limits: parts that fail, hang and find no time."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from load import gpu_session
from load.gpu_session import PARTS, Part, run


def test_session_when_parts_fail_or_hang_then_the_others_run_and_all_that_was_printed_is_kept(tmp_path: Path) -> None:
    parts = (
        Part("well", ("-c", "import gptoss_backend, load, support; print('measured')"), 30),
        Part("fails", ("-c", "print('half', flush=True); raise SystemExit(3)"), 30),
        Part("hangs", ("-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"), 3),
        Part("last", ("-c", "print('after')"), 30),
    )
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
    assert [(tmp_path / f"{name}.txt").read_text() for name in ("well", "fails", "last")] == [
        "measured\n",
        "half\n",
        "after\n",
    ]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "hangs.txt").read_text()), 0)


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
    assert len({part.name for part in PARTS}) == len(PARTS)
