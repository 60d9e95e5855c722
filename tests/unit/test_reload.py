"""`gptoss reload` against a Triton that plays a part."""

from __future__ import annotations

import errno
import http.server
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client.errors import CommandError, RunningError, UsageError
from gptoss_client.process_group import ProcessRecord
from gptoss_client.reload import reload
from gptoss_client.run_state import Death, Phase, RunDirectory, RunState
from support.live_server import free_ports

REFUSAL = (
    "load failed for model 'gpt_oss_20b': version 1 is at UNAVAILABLE state: "
    "Internal: CheckpointError: there is no config.json in /new;\n"
)


class Triton(http.server.ThreadingHTTPServer):
    """Knows one config, and answers a load as told."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.error: str | None = None
        self.delay_s = 0.0
        self.asked: list[str] = []
        self.keys: list[str] = []
        self.loaded: list[dict[str, Any]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Triton

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer(200, {"name": "gpt_oss_20b", "parameters": {"kept": {"string_value": "yes"}}})

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.keys.append(self.headers["gptoss-key"])
        time.sleep(self.server.delay_s)
        if self.server.error is not None:
            self._answer(400, {"error": self.server.error})
            return
        self.server.asked.append(self.path)
        self.server.loaded.append(json.loads(order["parameters"]["config"]))
        self._answer(200, {})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def triton() -> Iterator[Triton]:
    with answering(free_ports()) as server:  # behind it there is room for a second
        yield server


@contextmanager
def answering(port: int) -> Iterator[Triton]:
    with Triton(port) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path: Path, triton: Triton) -> RunDirectory:
    """The run directory of a server with two models; its supervisor is this process."""
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    tree = {
        "models": ["demo", "20b"],
        "checkpoints": {"20b": str(checkpoint(tmp_path / "old"))},
        "server": {"triton_http_port": triton.server_address[1], "run_dir": str(directory.root)},
    }
    directory.write_config(load_settings(tree, environ={}))
    directory.new_triton_key()
    directory.write_state(RunState(Phase.READY, ProcessRecord.of("supervisor", os.getpid()), time.time(), "x"))
    return directory


def silent() -> Console:
    return Console(file=StringIO())


def written(run: RunDirectory) -> Settings:
    return load_settings(config=run.config, environ={})


def test_reload_when_it_succeeds_then_the_stub_is_told_the_checkpoint_and_the_next_start_takes_it(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    new = checkpoint(tmp_path / "new")
    others = {model: place for model, place in written(run).checkpoints.items() if model != "20b"}

    reload(run, "20b", str(new), silent())

    assert triton.asked == ["/v2/models/gpt_oss_20b/config", "/v2/repository/models/gpt_oss_20b/load"]
    (config,) = triton.loaded
    assert config["parameters"]["checkpoint"] == {"string_value": str(new)}
    assert config["parameters"]["kept"] == {"string_value": "yes"}
    assert written(run).checkpoints == {**others, "20b": str(new)}


def test_reload_when_done_twice_with_one_checkpoint_then_triton_sees_another_config_each_time(
    run: RunDirectory, triton: Triton
) -> None:
    for _ in range(2):
        reload(run, "20b", None, silent())
    first, second = triton.loaded
    assert first["parameters"]["checkpoint"] == second["parameters"]["checkpoint"]
    assert first != second


def test_reload_when_loading_fails_then_the_reason_is_told_and_nothing_is_written(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    before, triton.error = run.config.read_bytes(), REFUSAL
    with pytest.raises(CommandError) as refused:
        reload(run, "20b", str(checkpoint(tmp_path / "new")), silent())
    assert str(refused.value) == "there is no config.json in /new; gpt-oss-20b serves on with what it had"
    assert run.config.read_bytes() == before


@pytest.mark.parametrize(
    ("model", "place", "words"),
    [
        (None, None, "the server has demo and 20b: say which"),
        ("120b", None, "does not have 120b, but demo and 20b"),
        ("20b", "nowhere/at/all", "there is no checkpoint in"),
    ],
)
def test_reload_when_asked_for_what_cannot_be_then_triton_is_not_asked(
    run: RunDirectory, triton: Triton, model: ModelShort | None, place: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        reload(run, model, place, silent())
    assert triton.asked == []


def test_reload_when_no_server_is_ready_then_it_says_so(run: RunDirectory, tmp_path: Path) -> None:
    state = run.read_state()
    assert state is not None
    run.write_state(replace(state, phase=Phase.RESTARTING))
    with pytest.raises(CommandError, match="is restarting: try again"):
        reload(run, "20b", None, silent())
    run.forget_state()
    with pytest.raises(CommandError, match="no server runs from"):
        reload(run, "20b", None, silent())
    with pytest.raises(CommandError, match="no server runs from"):
        reload(RunDirectory(tmp_path / "never"), "20b", None, silent())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_reload_when_it_asks_then_with_the_key_that_only_this_user_can_read(
    run: RunDirectory, triton: Triton, host: str
) -> None:
    settings = written(run)
    server = settings.server.model_copy(update={"triton_host": host})
    run.write_config(settings.model_copy(update={"server": server}))
    file = run.root / "triton.key"

    reload(run, "20b", None, silent())

    assert triton.keys == [file.read_text()]
    assert file.stat().st_mode & 0o777 == 0o600
    assert run.new_triton_key() != triton.keys[0]


def test_reload_when_there_is_no_key_then_it_says_which_file_is_missing(run: RunDirectory, triton: Triton) -> None:
    (run.root / "triton.key").unlink()
    with pytest.raises(CommandError, match=r"cannot read the key of Triton's APIs, \S+/triton\.key"):
        reload(run, "20b", None, silent())
    assert triton.keys == []


def test_reload_when_triton_takes_too_long_then_it_says_which_setting(run: RunDirectory, triton: Triton) -> None:
    triton.delay_s = 1.0
    settings = written(run)
    server = settings.server.model_copy(update={"startup_timeout_s": 0.1})
    run.write_config(settings.model_copy(update={"server": server}))
    with pytest.raises(CommandError, match=r"server\.startup_timeout_s.*goes on loading"):
        reload(run, "20b", None, silent())


def test_reload_when_triton_gets_on_then_it_is_waited_for_however_long_it_takes(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    triton.delay_s = 1.5
    settings = written(run)
    server = settings.server.model_copy(update={"startup_timeout_s": 0.8})
    run.write_config(settings.model_copy(update={"server": server}))
    run.logs.mkdir()
    writer = threading.Thread(target=write_layers, args=(run.log("triton"),))
    writer.start()
    reload(run, "20b", str(checkpoint(tmp_path / "new")), silent())
    writer.join()
    assert written(run).checkpoints["20b"] == str(tmp_path / "new")


def write_layers(log: Path) -> None:
    for layer in range(1, 6):
        with log.open("a") as file:
            file.write(f"layer {layer} of 24 loaded\n")
        time.sleep(0.3)


def interrupted(*after_s: float) -> threading.Thread:
    """Return a thread that presses Ctrl-C so long after one another."""

    def press() -> None:
        for wait_s in after_s:
            time.sleep(wait_s)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_reload_when_interrupted_then_it_waits_and_what_is_served_is_written_down(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    triton.delay_s, console = 1.0, silent()
    pressing = interrupted(0.4)
    reload(run, "20b", str(checkpoint(tmp_path / "new")), console)
    pressing.join()
    assert written(run).checkpoints["20b"] == str(tmp_path / "new")
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count("Triton cannot be told to stop loading") == 1


def test_reload_when_interrupted_twice_then_it_says_what_goes_on(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    triton.delay_s, before = 2.0, run.config.read_bytes()
    pressing = interrupted(0.3, 0.8)
    with pytest.raises(CommandError, match=r"nobody waits any longer; Triton goes on loading it.*reload once more"):
        reload(run, "20b", str(checkpoint(tmp_path / "new")), silent())
    pressing.join()
    assert run.config.read_bytes() == before


class Pipe(StringIO):
    """One that nobody reads after its first line."""

    def write(self, text: str) -> int:
        if self.getvalue():
            raise BrokenPipeError
        return super().write(text)


def test_reload_when_nobody_reads_its_words_then_what_is_served_is_written_down(
    run: RunDirectory, triton: Triton, tmp_path: Path
) -> None:
    reload(run, "20b", str(checkpoint(tmp_path / "new")), Console(file=Pipe()))
    assert written(run).checkpoints["20b"] == str(tmp_path / "new")


def test_reload_when_what_is_served_cannot_be_written_down_then_it_says_so(
    run: RunDirectory, triton: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunDirectory, "write_config", full)
    with pytest.raises(CommandError, match=r"new serves now, but the next start takes .*old.*No space left"):
        reload(run, "20b", str(checkpoint(tmp_path / "new")), silent())


def test_reload_when_another_is_under_way_then_it_is_refused(run: RunDirectory, triton: Triton) -> None:
    triton.delay_s = 1.0
    refused: list[RunningError] = []

    def reload_too() -> None:
        while not triton.asked:
            time.sleep(0.01)
        with pytest.raises(RunningError, match="another reload") as error:
            reload(run, "20b", None, silent())
        refused.append(error.value)

    second = threading.Thread(target=reload_too)
    second.start()
    reload(run, "20b", None, silent())
    second.join()
    assert len(triton.loaded) == len(refused) == 1


# --- several tritonservers ------------------------------------------------------------------------------------------


@pytest.fixture
def second(run: RunDirectory, triton: Triton) -> Iterator[Triton]:
    """Another one beside the first, from now on."""
    settings = written(run)
    run.write_config(settings.model_copy(update={"server": settings.server.model_copy(update={"num_replicas": 2})}))
    with answering(triton.server_address[1] + 3) as server:
        yield server


def loaded(triton: Triton) -> list[str]:
    return [config["parameters"]["checkpoint"]["string_value"] for config in triton.loaded]


def test_reload_when_there_are_several_then_each_is_told_and_who_is_done_is_said(
    run: RunDirectory, triton: Triton, second: Triton, tmp_path: Path
) -> None:
    new, console = checkpoint(tmp_path / "new"), silent()

    reload(run, "20b", str(new), console)

    assert loaded(triton) == loaded(second) == [str(new)]
    assert triton.keys == second.keys
    assert written(run).checkpoints["20b"] == str(new)
    assert isinstance(console.file, StringIO)
    assert "tritonserver has it, 1 of 2\ngpt-oss-20b: tritonserver-1 has it, 2 of 2\n" in console.file.getvalue()


def test_reload_when_a_later_one_fails_then_the_earlier_get_back_what_they_had(
    run: RunDirectory, triton: Triton, second: Triton, tmp_path: Path
) -> None:
    new, before, second.error = checkpoint(tmp_path / "new"), run.config.read_bytes(), REFUSAL

    with pytest.raises(CommandError) as refused:
        reload(run, "20b", str(new), silent())

    old = str(tmp_path / "old")
    assert loaded(triton) == [str(new), old]
    assert str(refused.value) == (
        "tritonserver-1: there is no config.json in /new; gpt-oss-20b serves on with what it had; "
        f"tritonserver has {old} again"
    )
    assert run.config.read_bytes() == before


def test_reload_when_a_later_one_fails_and_the_place_is_the_same_then_it_says_who_has_what(
    run: RunDirectory, triton: Triton, second: Triton, tmp_path: Path
) -> None:
    second.error = REFUSAL
    place = str(tmp_path / "old")
    with pytest.raises(CommandError, match=rf"tritonserver serves what {place} holds now, the others what it held"):
        reload(run, "20b", None, silent())
    assert loaded(triton) == [place]


def test_reload_when_one_died_meanwhile_then_it_says_to_reload_once_more(
    run: RunDirectory, triton: Triton, second: Triton, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RunDirectory.write_config

    def die_and_write(directory: RunDirectory, settings: Settings) -> None:
        state = directory.read_state()
        assert state is not None
        directory.write_state(replace(state, deaths=(Death("tritonserver", "it died", 1, time.time()),)))
        write(directory, settings)

    monkeypatch.setattr(RunDirectory, "write_config", die_and_write)
    with pytest.raises(CommandError, match="tritonserver died meanwhile and may have the old checkpoint"):
        reload(run, "20b", str(checkpoint(tmp_path / "new")), silent())
