"""A server whose stubs have a broken scikit-learn first on their import path starts and answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx

from gptoss_backend.settings import PROJECT_ROOT
from support import live_server
from support.broken_sklearn import WORDS, write_broken_sklearn

# a stub takes its packages from its environment, whatever PYTHONPATH says: the path is put in by the model itself
PLANTED = """
import sys
sys.path.insert(0, {folder!r})
try:
    import sklearn
except ValueError as error:
    open({note!r}, "a").write(f"{{__file__}}: {{error}}\\n")
"""


def test_server_when_sklearn_is_broken_in_its_stubs_then_it_answers(tmp_path: Path, checkpoint: Path) -> None:
    note, repository = tmp_path / "note", tmp_path / "repository"
    shutil.copytree(PROJECT_ROOT / "model_repository", repository, ignore=shutil.ignore_patterns("__pycache__"))
    planted = PLANTED.format(folder=str(write_broken_sklearn(tmp_path / "packages")), note=str(note))
    for model in ("preprocess", "gpt_oss_demo"):
        entry = repository / model / "1" / "model.py"
        entry.write_text(planted + entry.read_text())

    server = live_server.start(
        tmp_path / "run",
        checkpoint,
        environment={"GPTOSS_SERVER__MODEL_REPOSITORY": str(repository), "PYTHONPATH": str(tmp_path / "packages")},
    )
    try:
        answer = httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4},
            timeout=60,
        )
    finally:
        status, output = live_server.stop(server)

    assert (answer.status_code, status) == (200, 0), output
    assert answer.json()["usage"]["completion_tokens"] == 4
    stubs = note.read_text().splitlines()
    assert {line.rpartition(WORDS)[1] for line in stubs} == {WORDS}
    assert {Path(line.partition(":")[0]).parents[1].name for line in stubs} == {"preprocess", "gpt_oss_demo"}
