"""`two_at_a_time.py [options of pytest]`: all tests, those that only compute beside the rest.

Those that hold a server to seconds come first and alone. The others wait a good deal, for processes that start and end;
what computes takes that time and no other. Not pytest-xdist: 3.8 does not see its groups in pytest 9.2, and its workers
all have the same right to the processor.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

_NO_TESTS = 5
"""pytest's status where nothing is chosen."""


def main(options: list[str]) -> int:
    """Run them before everybody's eyes, then show what was said of those that compute; returns the worst status."""
    pytest = [sys.executable, "-m", "pytest", *options, "-m"]
    statuses = {subprocess.run([*pytest, "timed"], check=False).returncode}
    with tempfile.TemporaryFile("w+") as output:
        patient = ["nice", "-n", "19", *pytest, "computing"]
        computing = subprocess.Popen(patient, stdout=output, stderr=subprocess.STDOUT, text=True)
        try:
            rest = subprocess.run([*pytest, "not timed and not computing"], check=False)
            print("==> what only computes, run beside these", flush=True)
            statuses |= {rest.returncode, computing.wait()}
        finally:
            computing.kill()
            output.seek(0)
            print(output.read(), end="", flush=True)
    return max(statuses - {_NO_TESTS}, default=_NO_TESTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
