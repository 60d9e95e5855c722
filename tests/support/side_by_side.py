"""`side_by_side.py [options of pytest]`: all tests, on two cores.

Those that hold a server to a speed come first and alone. Then four lanes run at once: tests with tritonserver, those
with other processes of ours, which both wait half of their time for these, all others, and those that only compute,
which take what the others leave and a little more, so that they do not end long after them. Not pytest-xdist: 3.8 does
not see its groups in pytest 9.2, and its workers all have the same right to the processor.

The machine may be busy with other work, too, and a test that waits for something cannot tell slow from never. So the
few that failed are run once more when all is quiet: a fault fails again. Those that then pass are named at the end, for
whoever would look into them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from gptoss_backend.settings import PROJECT_ROOT

_FAILED, _NO_TESTS = 1, 5
"""pytest's statuses where tests failed, and where none is chosen."""
_MOST_RUN_AGAIN = 10
"""More failures than these are no accident."""
_CACHES = PROJECT_ROOT / ".pytest_cache" / "lanes"


@dataclass(frozen=True)
class Lane:
    """Tests that run one after another.

    name: as it is printed. marks: which tests, as pytest's `-m` has it. niceness: how far they stand back for others.
    num_threads: torch's, where it is not to have as many as there are cores.
    """

    name: str
    marks: str
    niceness: int = 0
    num_threads: int | None = None

    def command(self, options: Sequence[str]) -> tuple[str, ...]:
        """Return how to run them. A cache of its own: lanes at once would write over each other's."""
        own = ("-m", self.marks, "-o", f"cache_dir={_CACHES / self.name}", "--last-failed-no-failures", "none")
        threads = () if self.num_threads is None else (f"OMP_NUM_THREADS={self.num_threads}",)
        return ("env", *threads, "nice", "-n", str(self.niceness), sys.executable, "-m", "pytest", *options, *own)

    def failures(self) -> list[str]:
        """Return the tests that failed when they were last run."""
        file = _CACHES / self.name / "v" / "cache" / "lastfailed"
        return list(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else []


_TIMED = Lane("timed", "timed")
_SERVING = Lane("with tritonserver", "integration and not timed")
_PROCESSES = Lane("with other processes of ours", "processes and not timed")
# threads that share a core with other lanes wait for one another by turning round: it takes twice the time
_COMPUTING = Lane("what only computes", "computing", niceness=10, num_threads=1)
_REST = Lane("all others", "not timed and not integration and not processes and not computing", num_threads=1)


def main(options: list[str]) -> int:
    """Run them all, and what failed once more. Return the worst status."""
    statuses = {_TIMED: subprocess.run(_TIMED.command(options), check=False).returncode}
    statuses |= _run_at_once(_REST, (_SERVING, _PROCESSES, _COMPUTING), options)
    passed_alone: list[str] = []
    for lane in (lane for lane, status in statuses.items() if status == _FAILED):
        failures = lane.failures()
        if not 0 < len(failures) <= _MOST_RUN_AGAIN:
            continue
        print(f"==> once more, now that all is quiet: the {len(failures)} that failed of '{lane.name}'", flush=True)
        statuses[lane] = subprocess.run((*lane.command(options), "--last-failed"), check=False).returncode
        passed_alone += sorted(set(failures) - set(lane.failures()))
    if passed_alone:
        print("==> failed at first and passed alone (a busy machine, or a fault that shows now and then):")
        print("\n".join(f"    {test}" for test in passed_alone), flush=True)
    return max(set(statuses.values()) - {_NO_TESTS}, default=_NO_TESTS)


def _run_at_once(shown: Lane, hidden: Sequence[Lane], options: list[str]) -> dict[Lane, int]:
    """Run the lanes, one before everybody's eyes, and show at last what was said of the others. Return statuses."""
    statuses: dict[Lane, int] = {}
    with ExitStack() as stack:
        runs = []
        for lane in hidden:
            output = stack.enter_context(tempfile.TemporaryFile("w+"))
            run = subprocess.Popen(lane.command(options), stdout=output, stderr=subprocess.STDOUT)
            stack.callback(run.kill)  # whatever becomes of the others
            runs.append((lane, run, output))
        statuses[shown] = subprocess.run(shown.command(options), check=False).returncode
        for lane, run, output in runs:
            print(f"==> beside these: {lane.name}", flush=True)
            statuses[lane] = run.wait()
            output.seek(0)
            print(output.read(), end="", flush=True)
    return statuses


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
