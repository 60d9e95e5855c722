"""`gptoss ask` and `gptoss bench` as processes, against a real adapter with a scripted model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_backend.contract import FinishReason, ReasoningEffort
from gptoss_backend.settings_sources import load_settings
from gptoss_client.bench.measure import Level
from gptoss_client.bench.table import bar, histogram, plots, quantile, row
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, answer
from support.live_app import live, wait_until

SETTINGS = load_settings({"model": "demo"}, environ={})
GPTOSS = Path(sys.executable).with_name("gptoss")


@pytest.fixture
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture
def url(server: FakeModelServer) -> Iterator[str]:
    with live(create_app(SETTINGS, model_server=server)) as url:
        yield url


def gptoss(*arguments: str, stdin: bytes = b"", max_files: int | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end. max_files: that it may have open at first, and may raise."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("GPTOSS_", "OPENAI_"))}
    limited = ["sh", "-c", f'ulimit -Sn {max_files}; exec "$0" "$@"'] if max_files else []
    command = [*limited, str(GPTOSS), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, env=environment)


# --- ask --------------------------------------------------------------------------------------------------------------


def test_ask_when_piped_in_and_out_then_the_text_follows_the_question_and_the_answer_is_alone(
    url: str, server: FakeModelServer
) -> None:
    done = gptoss("ask", "sum", "up:", "--effort", "low", "--url", f"{url}/v1", stdin="Grüße\n".encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello!\n", b"")
    assert server.chats[0].messages[0].content == "sum up:\n\nGrüße"
    assert server.chats[0].reasoning_effort is ReasoningEffort.LOW


def test_ask_when_reasoning_is_wanted_then_it_goes_to_standard_error(url: str) -> None:
    done = gptoss("ask", "Hi", "--reasoning", "--url", url)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"Hello!\n", "│ Easy.\n".encode())


def test_ask_when_a_schema_is_given_then_the_request_holds_the_answer_to_it(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema | {"additionalProperties": False}))
    server.script = answer('<|channel|>final<|message|>{"city":"Oslo"}<|return|>')
    done = gptoss("ask", "where?", "--json-schema", str(path), "--url", url)
    assert json.loads(done.stdout) == {"city": "Oslo"}
    form = server.chats[0].response_format
    assert form is not None
    assert form.schema is not None
    assert form.schema["required"] == ["city"]
    assert form.strict


def test_ask_when_the_server_fails_then_its_sentence_and_status_1(url: str, server: FakeModelServer) -> None:
    server.preprocess_error = ServiceUnavailableError("The model server is away.")
    done = gptoss("ask", "Hi", "--url", url)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"error: The model server is away.\n")


def test_ask_when_the_answer_is_cut_then_what_came_is_written_and_status_is_1(
    url: str, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>final<|message|>Hello and", reason=FinishReason.LENGTH)
    done = gptoss("ask", "Hi", "--url", url)
    assert (done.returncode, done.stdout) == (1, b"Hello and\n")
    assert b"--max-tokens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "stdin", "word"),
    [
        ([], b"", b"what is to be asked"),
        (["Hi", "--url", "nowhere"], b"", b"--url"),
        (["Hi", "--url", "http://localhost:abc"], b"", b"--url"),
        (["Hi", "--url", "http://localhost:99999"], b"", b"--url"),
        (["Hi", "--url", "http://[::1"], b"", b"--url"),
        (["Hi", "--json-schema", "/no/such/file"], b"", b"--json-schema"),
        (["Hi", "--json-schema", __file__], b"", b"is not JSON"),
        (["Hi"], b"\xff\xfe", b"UTF-8"),
        (["Hi", "--effort", "much"], b"", b"--effort"),
    ],
)
def test_ask_when_the_options_are_wrong_then_it_names_them_and_status_is_2(
    arguments: list[str], stdin: bytes, word: bytes
) -> None:
    done = gptoss("ask", *arguments, stdin=stdin)
    assert done.returncode == 2
    assert word in done.stderr
    assert b"Traceback" not in done.stderr


def test_ask_when_the_key_is_none_or_the_proxy_cannot_be_had_then_says_so_and_status_1(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = gptoss("ask", "Hi", "--url", url, "--api-key", "séßame")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: that is no API key")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    done = gptoss("ask", "Hi", "--url", "http://192.0.2.1")
    assert done.returncode == (1)
    assert b"pip install socksio" in done.stderr
    assert gptoss("ask", "Hi", "--url", url).returncode == 0


def test_ask_when_standard_input_is_closed_then_the_words_alone_are_asked(url: str, server: FakeModelServer) -> None:
    shell = subprocess.run(["sh", "-c", f"{GPTOSS} ask Hi --url {url} <&-"], capture_output=True, timeout=60)
    assert (shell.returncode, shell.stdout, shell.stderr) == (0, b"Hello!\n", b"")
    assert server.chats[0].messages[0].content == "Hi"


def test_ask_when_the_disk_is_full_then_says_so_and_status_1(url: str) -> None:
    shell = subprocess.run(["sh", "-c", f"{GPTOSS} ask Hi --url {url} >/dev/full"], capture_output=True, timeout=60)
    assert (shell.returncode, shell.stderr) == (1, b"error: No space left on device\n")


def test_ask_when_the_reader_leaves_then_it_ends_quietly_and_the_engine_is_freed(
    url: str, server: FakeModelServer
) -> None:
    # more than a pipe holds: on a busy machine all that fits is written before the reader leaves
    words = answer("<|channel|>final<|message|>" + "word " * 50)[1:-1]
    server.script = [*HELLO[:1], *(HELLO[1:-1] * 20), *(words * 2_000), FOREVER]
    command = [str(GPTOSS), "ask", "Hi", "--url", url]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == 141
        assert process.stderr.read() == b""
    wait_until(lambda: server.streams[0].abandoned)


# --- bench ------------------------------------------------------------------------------------------------------------


def test_bench_when_run_for_programs_then_each_level_has_its_figures(url: str, server: FakeModelServer) -> None:
    done = gptoss("bench", "--json", "--seconds", "0.3", "--concurrency", "1,3", "--max-tokens", "9", "--url", url)
    assert (done.returncode, done.stderr) == (0, b"")
    levels = json.loads(done.stdout)["levels"]
    assert [level["concurrency"] for level in levels] == [1, 3]
    assert all(level["answers"] > 0 and level["errors"] == 0 and level["tokens_per_s"] > 0 for level in levels)
    assert all(level["stream_tokens_per_s"] > 0 for level in levels)
    assert all(0 < level["ttft_s"]["p50"] <= level["ttft_s"]["p95"] for level in levels)
    assert {(sampling.max_tokens, sampling.ignore_eos) for sampling in server.samplings} == {(9, True)}
    prompts = [chat.messages[0].content for chat in server.chats[1:]]
    assert len(set(prompts[: levels[0]["answers"]])) == levels[0]["answers"]


def test_bench_when_there_are_more_chats_than_files_that_a_shell_lets_it_open_then_none_fails(url: str) -> None:
    done = gptoss("bench", "--json", "--seconds", "1", "--concurrency", "60", "--url", url, max_files=32)
    (level,) = json.loads(done.stdout)["levels"]
    assert (level["errors"], level["answers"] >= 60) == (0, True)


def test_bench_when_run_for_people_then_a_table_and_plots_come(url: str) -> None:
    done = gptoss("bench", "--seconds", "0.2", "--concurrency", "2", "--url", url)
    assert done.returncode == 0
    header, level, _, title, drawn, *_ = done.stdout.decode().splitlines()
    assert header.split()[:2] == ["chats", "answers"]
    assert level.split()[0] == "2"
    assert title == "tokens/s of all chats"
    assert "█" * 24 in drawn


def test_bench_when_answers_never_end_then_it_ends_in_time_and_says_so(url: str, server: FakeModelServer) -> None:
    server.scripts = [HELLO]
    server.script = [*HELLO[:5], FOREVER]
    done = gptoss("bench", "--json", "--seconds", "0.3", "--concurrency", "2", "--url", url)
    assert done.returncode == 0
    assert json.loads(done.stdout)["levels"][0]["unfinished"] == 2
    wait_until(lambda: all(stream.abandoned for stream in server.streams[1:]))
    server.script = [FOREVER]
    done = gptoss("bench", "--seconds", "0.3", "--url", url)
    assert done.returncode == 1
    assert b"--seconds" in done.stderr


@pytest.mark.parametrize("levels", ["", "0", "a", "1,,2", "-3", "99999"])
def test_bench_when_the_concurrencies_are_none_then_it_names_the_option(levels: str) -> None:
    done = gptoss("bench", "--concurrency", levels, "--url", "http://127.0.0.1:9")
    assert done.returncode == 2
    assert b"--concurrency" in done.stderr


def test_table_when_a_level_has_no_answer_then_it_is_told_without_figures() -> None:
    level = Level(4, num_errors=2, first_error="Full.")
    assert row(level).endswith("2 errors: Full.")
    assert list(plots([level]))[1].split() == ["4", "0"]


def test_plots_when_given_values_then_they_are_to_scale() -> None:
    assert [len(bar(value, 8.0)) for value in (8.0, 4.0, 0.0)] == [24, 12, 0]
    assert bar(1 / 24 / 8, 1.0) == "▏"
    assert histogram([0.0, 0.0, 1.0], 0.0, 1.0) == "█" + " " * 14 + "▄"
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.0, 0.5, 0.95)] == [1.0, 2.0, 3.0]
    assert quantile([], 0.5) is None
