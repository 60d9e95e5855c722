"""`side_by_side.py [options of pytest]`: all tests, on two cores.

Those that hold a server to a speed come first and alone. Then three run at once: tests with tritonserver, which wait a
good deal for it, all others, and those that only compute, which take the time that nobody else wants. Not pytest-xdist:
3.8 does not see its groups in pytest 9.2, and its workers all have the same right to the processor.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack

_NO_TESTS = 5
"""pytest's status where nothing is chosen."""
_PATIENT = ("nice", "-n", "19")


def main(options: list[str]) -> int:
    """Run them, the longest before everybody's eyes, and show at last what was said of the others.

    Returns the worst status.
    """
    pytest = (sys.executable, "-m", "pytest", *options, "-m")
    statuses = {subprocess.run((*pytest, "timed"), check=False).returncode}
    hidden = {
        "with tritonserver": (*pytest, "integration and not timed"),
        "what only computes": (*_PATIENT, *pytest, "computing"),
    }
    with ExitStack() as stack:
        outputs = {name: stack.enter_context(tempfile.TemporaryFile("w+")) for name in hidden}
        runs = {name: subprocess.Popen(hidden[name], stdout=outputs[name], stderr=subprocess.STDOUT) for name in hidden}
        for run in runs.values():
            stack.callback(run.kill)  # whatever becomes of the others
        rest = subprocess.run((*pytest, "not timed and not integration and not computing"), check=False)
        statuses.add(rest.returncode)
        for name, run in runs.items():
            print(f"==> beside these: {name}", flush=True)
            statuses.add(run.wait())
            outputs[name].seek(0)
            print(outputs[name].read(), end="", flush=True)
    return max(statuses - {_NO_TESTS}, default=_NO_TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
