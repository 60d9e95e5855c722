#!/usr/bin/env bash
# Resolve pyproject.toml's ranges beside torch and write the exact versions, and once more with their files' hashes:
# lock.sh PYTHON TORCH LOCK_FILE HASHED_FILE
set -euo pipefail

python=$1 torch=$2 lock=$3 hashed=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check --no-input -qq "$@"; }

echo "==> resolving in a throw-away environment (takes minutes)"
"$python" -m venv "$work/venv"
# shellcheck disable=SC2086  # TORCH may carry pip options
pip install $torch

"$work/venv/bin/python" - >"$work/ranges.txt" <<'PY'
import pathlib, tomllib

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text(encoding="utf-8"))
extras = project["project"]["optional-dependencies"]
print(*project["build-system"]["requires"], *project["project"]["dependencies"], *sum(extras.values(), []), sep="\n")
PY
pip install --requirement "$work/ranges.txt"

# triton's version is the one that torch's CUDA build of this version asks for, so that installing both changes nothing.
# nvidia-pytriton asks for NumPy 1 and a web server; only its tritonserver is used, so it is pinned without dependencies.
{
  echo "# Made by \`make lock\` from pyproject.toml; what \`make setup\` installs is lock-hashed.txt."
  { pip freeze --all | grep -viE '^(torch|triton|pip|(nvidia|cuda)-[^=]*|gptoss-triton)=='; echo "nvidia-pytriton==0.7.0"; echo "triton==3.7.1"; } |
    LC_ALL=C sort --ignore-case
} >"$work/lock.txt"
echo "==> asking for the hashes of their files"
"$work/venv/bin/python" requirements/hashes.py "$work/lock.txt" "$work/hashed.txt"
mv "$work/lock.txt" "$lock"
mv "$work/hashed.txt" "$hashed"
echo "==> wrote $lock and $hashed: $(grep -c == "$lock") packages"
