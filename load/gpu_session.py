"""What only a GPU can show, the most telling first, within the minutes that there are.

Stage: none of a request's; whatever the parts are about.
Owns: the parts, their order and how long each may take; what is kept of them. Does not know: what they measure.

    python -m load.gpu_session --minutes 9 --out FOLDER
    python -m load.gpu_session --minutes 5 --out FOLDER --only tiles bench-120b
    python -m load.gpu_session --list

Needs nothing installed but what the parts need, and runs in a plain checkout. What a part prints is in FOLDER as it
comes, so that nothing is lost where the time ends; `summary.txt` says how each ended.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[1]
_LEAST_S: Final = 20.0
"""Less is not worth beginning a part for."""
_NUM_LAST_LINES: Final = 12
_TIMED_OUT: Final = "ran out of time"


@dataclass(frozen=True, slots=True)
class Part:
    """A command of Python's, and how many seconds it may take."""

    name: str
    arguments: tuple[str, ...]
    most_s: float


def _tests(name: str, most_s: float, *files: str) -> Part:
    return Part(name, ("-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *files), most_s)


def _bench(name: str, most_s: float, *options: str, shapes: str = "20b") -> Part:
    return Part(name, ("-m", "load.gpu_bench", "--shapes", shapes, "--contexts", "1024", *options), most_s)


_KERNELS: Final = ("_attention", "_skinny", "_step")
_BATCHES: Final = ("--batches", "1", "32", "256")
_ONE_PROMPT: Final = ("--prompts", "256")
PARTS: Final = (
    _tests("kernels", 180, *(f"tests/unit/test_kernels{name}.py" for name in ("", *_KERNELS)), "tests/gpu"),
    _bench("bench", 180, *_BATCHES, "--prompts", "256", "2048", "--profile"),
    _tests("engine", 150, "tests/unit/test_kernels_in_engine.py", "tests/unit/test_kernels_sampling.py"),
    Part("check", ("-m", "load.gpu_check", "--shapes", "20b", "--no-files"), 150),
    _bench("bench-dependent-launch", 120, *_BATCHES, *_ONE_PROMPT, "--dependent-launch"),
    _bench("bench-held", 120, *_BATCHES, *_ONE_PROMPT, "--held-every", "8"),
    _bench("bench-top-p", 120, *_BATCHES, *_ONE_PROMPT, "--top-p", "0.9"),
    Part(
        "tiles", ("-m", "load.gpu_tiles", "--shapes", "20b", "--tokens", "1", "4", "8", "32", "128", "256", "2048"), 240
    ),
    _bench("bench-120b", 180, *_BATCHES, *_ONE_PROMPT, shapes="120b"),
    _bench("bench-transformers", 240, "--batches", "1", "32", *_ONE_PROMPT, "--transformers"),
    _bench("bench-long", 240, "--batches", "1", "128", "--prompts", "16384"),
)


def main() -> int:
    """Run the parts; returns 1 where one failed, else 0."""
    options = _parser().parse_args()
    parts = [part for part in PARTS if options.only is None or part.name in options.only]
    if options.list:
        for part in parts:
            _say(f"{part.name:24}up to {part.most_s:.0f} s   python {' '.join(part.arguments)}")
        return 0
    return run(parts, 60 * options.minutes, options.out)


def run(parts: Sequence[Part], limit_s: float, folder: Path) -> int:
    """Run parts one after the other for `limit_s` at most; returns 1 where one failed. folder: for what they print."""
    folder.mkdir(parents=True, exist_ok=True)
    end_s, ends, worst = time.monotonic() + limit_s, list[str](), 0
    for part in parts:
        started_s, log = time.monotonic(), folder / f"{part.name}.txt"
        if end_s - started_s < _LEAST_S:
            ends.append(f"{part.name}: no time was left")
        else:
            _say(f"==> {part.name}: python {' '.join(part.arguments)}")
            status = _run_one(part, min(part.most_s, end_s - started_s), log)
            ends.append(f"{part.name}: {status or 'well'}, {time.monotonic() - started_s:.0f} s")
            worst = max(worst, int(status != ""))
            _say(f"{_last_lines(log)}\n==> {ends[-1]}")
        (folder / "summary.txt").write_text("\n".join(ends) + "\n", encoding="utf-8")
    _say("\n".join(["", *ends]))
    return worst


def _run_one(part: Part, most_s: float, log: Path) -> str:
    """Run a part, its output to `log`; returns how it failed, in words, nothing where it did not."""
    folders = [_ROOT / name for name in ("backend", "adapter", "client", ".", "tests")]
    variables = (f"PYTHONPATH={os.pathsep.join(map(str, folders))}", "PYTHONUNBUFFERED=1")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            ("env", *variables, sys.executable, *part.arguments),
            cwd=_ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(most_s)
        except subprocess.TimeoutExpired:
            return _TIMED_OUT
        finally:  # at Ctrl-C, too, and whatever a part has left behind
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return f"status {status}" if status else ""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_NUM_LAST_LINES:])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long all of it may take")
    parser.add_argument("--out", type=Path, default=Path(".run/gpu-session"), help="the folder for what is printed")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts alone")
    parser.add_argument("--list", action="store_true", help="say what the parts are, and run none")
    return parser


if __name__ == "__main__":
    sys.exit(main())
