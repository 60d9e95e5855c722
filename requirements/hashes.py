"""The lock with the SHA-256 of the files that may be installed: hashes.py LOCK_FILE HASHED_FILE.

Owns: for which Pythons and processors, and that pip alone asks the registry.
Does not know: which versions (lock.sh).

pip picks among the files whose hashes are listed, so it need not be the one that it would pick by itself: of each
package the best for each of these is enough. None asks for more of glibc than the wheel with tritonserver does.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from packaging.utils import canonicalize_name

PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("x86_64", "aarch64")
GLIBC_MINORS = range(35, 4, -1)  # of 2.x, the best first; files of the oldest run on all
HEAD = """\
# Made by `make lock`: requirements/lock.txt with the SHA-256 of its files for Linux and Python 3.11 to 3.13.
# `make setup` installs no others. Not for --constraint, which would ask for hashes of all else, too.
"""


def hashes_of(lock: Path, python: str, machine: str) -> Iterator[tuple[str, str]]:
    """Yield each package's name, as `canonicalize_name` writes it, and the SHA-256 of its best file."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS]
    tags += [f"manylinux2014_{machine}", f"linux_{machine}"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-qq", "install"]
        command += ["--dry-run", "--no-deps", "--ignore-installed", "--report", str(report), "--requirement", str(lock)]
        # --target: pip asks for it where the files are for another Python; a dry run writes nothing there
        command += ["--only-binary=:all:", "--python-version", python, "--target", folder]
        subprocess.run([*command, *(f"--platform={tag}" for tag in tags)], check=True)
        for entry in json.loads(report.read_text(encoding="utf-8"))["install"]:
            yield (
                canonicalize_name(entry["metadata"]["name"]),
                entry["download_info"]["archive_info"]["hashes"]["sha256"],
            )


def main(lock: Path, hashed: Path) -> None:
    """Write the file anew."""
    pins = [line for line in lock.read_text(encoding="utf-8").splitlines() if "==" in line]
    hashes: dict[str, set[str]] = {canonicalize_name(pin.partition("==")[0]): set() for pin in pins}
    for python in PYTHONS:
        for machine in MACHINES:
            for name, sha256 in hashes_of(lock, python, machine):
                hashes[name].add(sha256)
    lines = [" ".join([pin, *_options(hashes[canonicalize_name(pin.partition("==")[0])])]) for pin in pins]
    hashed.write_text(HEAD + "\n".join(lines) + "\n", encoding="utf-8")


def _options(hashes: set[str]) -> Iterator[str]:
    return (f"--hash=sha256:{sha256}" for sha256 in sorted(hashes))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
