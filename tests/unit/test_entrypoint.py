"""The Triton container's process: what it loads, how it ends."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptoss_backend.contract import PREPROCESS
from gptoss_backend.demo.naming import DEMO_NAME, WEIGHTS_FILE, WEIGHTS_KEY, weights_digest
from gptoss_backend.engine.checkpoint_files import SINGLE_FILE
from gptoss_backend.environment import ENV_PREFIX
from gptoss_backend.heartbeat import HEARTBEAT, STALLED
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings_sources import load_settings
from gptoss_client import hang_watch
from support.container_files import (
    ENTRYPOINT,
)
from support.triton_page import triton_with

FAKE_TRITONSERVER = """\
#!{python}
import os, signal, sys, time
print(*sys.argv[1:], sep="\\n", flush=True)
if {what!r} == "fails":
    sys.exit(3)
if {what!r} == "loses a stub" and os.fork() == 0:
    os._exit(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("serving", flush=True)
time.sleep(60)
"""


@contextmanager
def entrypoint(folder: Path, what: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the container's command with a tritonserver that does `what`."""
    server = folder / "bin" / "tritonserver"
    server.parent.mkdir()
    server.write_text(FAKE_TRITONSERVER.format(python=sys.executable, what=what), encoding="utf-8")
    server.chmod(0o755)
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    process = subprocess.Popen(
        (sys.executable, str(ENTRYPOINT)),
        env=inherited | {"PATH": f"{server.parent}{os.pathsep}{inherited['PATH']}"} | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # which it passes on: a kill would leave the server behind
        process.communicate(timeout=20)


def read_until_serving(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [line.strip() for line in iter(process.stdout.readline, "serving\n")]


def test_entrypoint_when_a_model_is_chosen_then_it_and_its_companions_are_loaded_and_nothing_else(
    tmp_path: Path,
) -> None:
    model = MODELS_BY_SHORT["20b"]
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b", GPTOSS_SERVER__TRITON_GRPC_PORT="8001") as process:
        flags = read_until_serving(process)

    assert "--model-control-mode=explicit" in flags
    assert [flag for flag in flags if flag.startswith("--load-model=")] == [
        f"--load-model={name}" for name in (PREPROCESS, model.triton, model.ensemble)
    ]
    assert "--grpc-port=8001" in flags
    assert "--model-config-name=cpu" in flags, "there is no GPU here"


def test_entrypoint_when_asked_to_stop_then_tritonserver_ends_in_good_order(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b") as process:
        read_until_serving(process)
        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=10) == 0


def test_entrypoint_when_a_stub_crashes_then_the_container_ends_and_says_why(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "loses a stub", GPTOSS_MODEL="20b") as process:
        began_s = time.monotonic()
        _, errors = process.communicate(timeout=20)

    assert process.returncode == 70
    assert "lost a stub" in errors
    assert time.monotonic() - began_s < 15


SILENT = f'{HEARTBEAT}{{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"}} 1.0\n'
STALLED_50_S = f'{STALLED}{{instance="gpt_oss_20b_0_0",model="gpt_oss_20b"}} 50.0\n'


def test_entrypoint_when_a_stub_hangs_then_the_container_ends_and_says_why(tmp_path: Path) -> None:
    with triton_with(SILENT) as (port, _):
        ports = {"GPTOSS_SERVER__TRITON_HTTP_PORT": str(port), "GPTOSS_SERVER__TRITON_METRICS_PORT": str(port)}
        with entrypoint(tmp_path, "serves", GPTOSS_MODEL="20b", GPTOSS_SERVER__HANG_TIMEOUT_S="1", **ports) as process:
            _, errors = process.communicate(timeout=20)

    assert process.returncode == 71
    assert "error: tritonserver hangs: gpt_oss_20b_0_0 has given no sign of life for " in errors


@pytest.mark.parametrize(
    ("page", "answers", "server", "is_asked_to_end", "status"),
    [
        (SILENT, 200, {}, False, 71),
        (SILENT, 200, {"hang_timeout_s": 0}, False, 0),
        (SILENT, 503, {}, False, 0),  # it still loads
        (SILENT, 200, {}, True, 0),  # by Docker or Kubernetes, which kills it when that takes too long
        (STALLED_50_S, 200, {"step_timeout_s": 49}, False, 71),
        (STALLED_50_S, 200, {"step_timeout_s": 51}, False, 0),
    ],
    ids=["silent", "never", "loads", "ends", "in one step", "in a step that may take so long"],
)
def test_entrypoint_when_triton_shows_no_progress_then_it_is_killed_if_it_was_ready_and_settings_call_it_a_hang(
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    answers: int,
    server: dict[str, float],
    is_asked_to_end: bool,
    status: int,
) -> None:
    triton_entrypoint = runpy.run_path(str(ENTRYPOINT))
    monkeypatch.setitem(triton_entrypoint["watch"].__globals__, "CHECK_PERIOD_S", 0.05)
    monkeypatch.setattr(hang_watch, "_PERIOD_S", 0.05)
    ending = threading.Event()
    if is_asked_to_end:
        ending.set()
    with triton_with(page, answers) as (port, _):
        ports = {"triton_http_port": port, "triton_metrics_port": port}
        settings = load_settings({"server": {"hang_timeout_s": 0.2} | ports | server}, environ={})
        # where it may live, it ends by itself and in good order, long after it would have been killed
        with subprocess.Popen((sys.executable, "-c", f"import time; time.sleep({30 if status else 2})")) as process:
            found = triton_entrypoint["watch"](process, triton_entrypoint["HangCheck"](settings), ending)

    assert found == status


def test_entrypoint_when_tritonserver_fails_then_its_exit_status_is_the_containers(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "fails", GPTOSS_MODEL="20b") as process:
        assert process.wait(timeout=20) == 3


def test_entrypoint_when_the_model_is_unknown_then_it_refuses_with_a_sentence(tmp_path: Path) -> None:
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="7b") as process:
        output, errors = process.communicate(timeout=20)

    assert process.returncode == 2
    assert errors.startswith("error: model: ")
    assert len(errors.splitlines()) == 1
    assert output == ""


def test_entrypoint_when_the_volume_holds_the_demo_of_an_earlier_version_then_it_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "volume" / "gpt-oss-demo"
    folder.mkdir(parents=True)
    config = folder / "config.json"
    config.write_text(json.dumps({"_name_or_path": DEMO_NAME, WEIGHTS_KEY: "another"}), encoding="utf-8")

    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="demo", GPTOSS_CHECKPOINTS__DEMO=str(folder)) as process:
        read_until_serving(process)

    assert json.loads(config.read_text(encoding="utf-8"))[WEIGHTS_KEY] == weights_digest(WEIGHTS_FILE)
    assert (folder / SINGLE_FILE).stat().st_size > WEIGHTS_FILE.stat().st_size


def test_entrypoint_when_the_demo_cannot_be_made_then_it_refuses_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "gpt-oss-demo"
    with entrypoint(tmp_path, "serves", GPTOSS_MODEL="demo", GPTOSS_CHECKPOINTS__DEMO=str(folder)) as process:
        output, errors = process.communicate(timeout=60)

    assert process.returncode == 1
    assert errors.startswith(f"error: could not make a checkpoint in {folder}: ")
    assert len(errors.splitlines()) == 1
    assert output == ""
