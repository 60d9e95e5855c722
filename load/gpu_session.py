"""What only a GPU can show, the most telling first, within the minutes that there are.

Stage: none of a request's; whatever the parts are about.
Owns: the parts, their order and how long each may take; what is kept of them. Does not know: what they measure.

    python -m load.gpu_session --minutes 9 --out FOLDER
    python -m load.gpu_session --minutes 5 --out FOLDER --only tiles bench-120b
    python -m load.gpu_session --list

Runs in a plain checkout and stops at once where a package is missing: load/README.md says which are needed, and how
they come to a machine without a network. `log.txt` in FOLDER has what the parts print, as it comes, so that nothing is
lost where the time ends; `summary.txt` says how each ended. There are no more files: a lent machine hands back few.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
_LEAST_S: Final = 20.0
"""Less is not worth beginning a part for."""
_PARTING_S: Final = 20.0
"""For an interrupted part to say what it knows: pytest-xdist waits for stuck workers for 10 s before it does."""
_NUM_LAST_LINES: Final = 12
_TIMED_OUT: Final = "ran out of time"


@dataclass(frozen=True, slots=True)
class Part:
    """A command of Python's, and how many seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    most_s: float
    needs: tuple[str, ...] = ()
    """Modules without which it would not be worth beginning."""


_NEEDS: Final = ("torch", "triton", "safetensors", "pydantic", "load.gpu_bench")
"""Of all parts. The last imports most of the engine, and so finds what the others do not name."""
_TESTS_NEED: Final = (*_NEEDS, "pytest", "pytest_timeout", "hypothesis")
_SIDE_BY_SIDE: Final = ("-n", "8", "--maxschedchunk", "1", "-o", "timeout_method=thread")
"""To compile takes the longest, on a core each; no test measures, and the largest take 10 GB of the GPU.

By that method a test that hangs on the GPU ends, its worker with it, and xdist replaces the worker.
"""


def _tests(name: str, most_s: float, *files: str) -> Part:
    workers = _SIDE_BY_SIDE if importlib.util.find_spec("xdist") else ()
    # a test that passes or fails is named at once: a kernel that hangs cannot be interrupted
    options = ("-v", "--no-header", "-p", "no:cacheprovider", "-o", "timeout=60", *workers)
    return Part(name, ("-m", "pytest", *options, *files), most_s, _TESTS_NEED)


def _bench(name: str, most_s: float, *options: str, shapes: str = "20b") -> Part:
    return Part(name, ("-m", "load.gpu_bench", "--shapes", shapes, "--contexts", "1024", *options), most_s, _NEEDS)


_AT_FULL_SIZE: Final = ("mxfp4", "skinny", "attention", "replayed_sums", "demo_training", "spread")
_KERNELS: Final = ("", "_attention", "_skinny", "_step")
_BATCHES: Final = ("--batches", "1", "32", "256")
_ONE_PROMPT: Final = ("--prompts", "256")
PARTS: Final = (
    _tests(
        "kernels",
        180,
        *(f"tests/gpu/test_{name}_gpu.py" for name in _AT_FULL_SIZE),
        *(f"tests/unit/test_kernels{name}.py" for name in _KERNELS),
    ),
    _bench("bench", 180, *_BATCHES, "--prompts", "256", "2048", "--profile"),
    _tests("engine", 150, "tests/unit/test_kernels_in_engine.py", "tests/unit/test_kernels_sampling.py"),
    Part("check", ("-m", "load.gpu_check", "--shapes", "20b", "--no-files"), 150, _NEEDS),
    _bench("bench-dependent-launch", 120, *_BATCHES, *_ONE_PROMPT, "--dependent-launch"),
    _bench("bench-held", 120, *_BATCHES, *_ONE_PROMPT, "--held-every", "8"),
    _bench("bench-top-p", 120, *_BATCHES, *_ONE_PROMPT, "--top-p", "0.9"),
    Part(
        "tiles",
        ("-m", "load.gpu_tiles", "--shapes", "20b", "--tokens", "1", "4", "8", "32", "128", "256", "2048"),
        240,
        _NEEDS,
    ),
    _bench("bench-120b", 180, *_BATCHES, *_ONE_PROMPT, shapes="120b"),
    _bench("bench-transformers", 240, "--batches", "1", "32", *_ONE_PROMPT, "--transformers"),
    _bench("bench-long", 240, "--batches", "1", "128", "--prompts", "16384"),
)


def main() -> int:
    """Run the parts; returns 1 where one failed or none can run, else 0."""
    options = _parser().parse_args()
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    if options.list:
        for part in parts:
            _say(f"{part.name:24}up to {part.most_s:.0f} s   python {' '.join(part.arguments)}")
        return 0
    end_s = time.monotonic() + 60 * options.minutes
    if missing := what_is_missing(parts):
        _say(f"{'; '.join(missing)}: nothing was run, pip install what is missing (load/README.md says how).")
        return 1
    return run(parts, end_s - time.monotonic(), options.out)


def what_is_missing(parts: Sequence[Part]) -> list[str]:
    """Return what Python says of each module that the parts need and a process of theirs cannot import."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError as error: print(error)"
    )
    needs = dict.fromkeys(name for part in parts for name in part.needs)
    command = _command("-c", code, *needs)
    imported = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return list(dict.fromkeys(imported.stdout.splitlines()))


def run(parts: Sequence[Part], limit_s: float, folder: Path) -> int:
    """Run parts one after the other for `limit_s` at most; returns 1 where one failed. folder: for what they print."""
    end_s, ends, worst = time.monotonic() + limit_s, list[str](), 0
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("w+b", buffering=0) as log:
        for part in parts:
            started_s = time.monotonic()
            left_s = end_s - started_s - _PARTING_S
            if left_s < _LEAST_S:
                ends.append(f"{part.name}: no time was left")
            else:
                _say(f"==> {part.name}: python {' '.join(part.arguments)}", log)
                begin = log.tell()
                status = _run_one(part, min(part.most_s, left_s), log)
                ends.append(f"{part.name}: {status or 'well'}, {time.monotonic() - started_s:.0f} s")
                worst = max(worst, int(status != ""))
                _say(_last_lines(log, begin))
                _say(f"==> {ends[-1]}", log)
            (folder / "summary.txt").write_text("\n".join(ends) + "\n", encoding="utf-8")
    _say("\n".join(["", *ends]))
    return worst


def _run_one(part: Part, most_s: float, log: FileIO) -> str:
    """Run a part, its output to `log`; returns how it failed, in words, nothing where it did not."""
    process = subprocess.Popen(
        _command(*part.arguments), cwd=_ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        status = process.wait(most_s)
    except subprocess.TimeoutExpired:
        # pytest says at its end what failed, and why. All of the group: its workers would not end by themselves
        os.killpg(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_PARTING_S)
        return _TIMED_OUT
    finally:  # at Ctrl-C, too, and whatever a part has left behind
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return f"status {status}" if status else ""


def _command(*arguments: str) -> tuple[str, ...]:
    """Return Python's command that finds our packages, and whatever this process finds."""
    ours = (str(_ROOT / name) for name in ("backend", "adapter", "client", ".", "tests"))
    folders = os.pathsep.join([*ours, *filter(None, sys.path)])
    return ("env", f"PYTHONPATH={folders}", "PYTHONUNBUFFERED=1", sys.executable, *arguments)


def _say(text: str, log: FileIO | None = None) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    if log is not None:
        log.write(f"{text}\n".encode())


def _last_lines(log: FileIO, begin: int) -> str:
    """Return the last lines since `begin`, and leave the log at its end."""
    log.seek(begin)
    return "\n".join(log.read().decode(errors="replace").splitlines()[-_NUM_LAST_LINES:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long all of it may take")
    parser.add_argument("--out", type=Path, default=Path(".run/gpu-session"), help="the folder for what is printed")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts alone")
    parser.add_argument("--list", action="store_true", help="say what the parts are, and run none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
