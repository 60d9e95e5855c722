"""`gptoss chat` as a process, on a terminal and in pipes, against a real adapter with a scripted model."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_backend.contract import ReasoningEffort
from gptoss_backend.settings_sources import load_settings
from gptoss_client.talk.line_input import HISTORY
from gptoss_client.talk.tools import run_tool
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, answer
from support.live_app import live, wait_until

SETTINGS = load_settings({"model": "demo", "adapter": {"keepalive_s": 0.1}}, environ={})
GPTOSS = Path(sys.executable).with_name("gptoss")
CALL = (
    "<|channel|>analysis<|message|>Compute.<|end|><|start|>assistant<|channel|>commentary to=functions.calculate"
    ' <|constrain|>json<|message|>{"expression":"6*7"}<|call|>'
)
FINAL = "<|channel|>final<|message|>"
ESCAPES = answer(f"{FINAL}\x1b]0;pwned\x07\x1b[2Jsafe<|return|>")
DIM = "\x1b[2m"


@pytest.fixture
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture
def url(server: FakeModelServer) -> Iterator[str]:
    with live(create_app(SETTINGS, model_server=server)) as url:
        yield url


def environment(home: Path, **more: str) -> dict[str, str]:
    inherited = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("GPTOSS_", "OPENAI_")) and name != "NO_COLOR"
    }
    return inherited | {"HOME": str(home), "TERM": "xterm-256color"} | more


def piped(url: str, home: Path, lines: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(GPTOSS), "chat", "--url", url, *options]
    return subprocess.run(command, input=lines, capture_output=True, text=True, timeout=60, env=environment(home))


class Terminal:
    """The command on a terminal of its own."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True, close_fds=True
        )
        os.close(slave)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, timeout_s: float = 20.0) -> str:
        """Wait until `text` is shown, and return what was shown up to its end since the last time."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} was not shown: {self.shown!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.shown += os.read(self._master, 65536).decode(errors="replace")
        at = self.shown.index(text) + len(text)
        before, self.shown = self.shown[:at], self.shown[at:]
        return before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


@contextmanager
def terminal(url: str, home: Path, *options: str, **env: str) -> Iterator[Terminal]:
    shown = Terminal([str(GPTOSS), "chat", "--url", url, *options], environment(home, **env))
    try:
        shown.expect("you> ")
        yield shown
    finally:
        shown.close()


# --- on a terminal ----------------------------------------------------------------------------------------------------


def test_chat_when_on_a_terminal_then_reasoning_is_dim_and_apart_and_figures_follow(url: str, tmp_path: Path) -> None:
    with terminal(url, tmp_path) as shown:
        shown.type("Hi\n")
        text = shown.expect("you> ")
        shown.type("\x04")
        assert shown.process.wait(20) == 0
    assert f"{DIM}│ " in text
    assert "\nHello!\r\n" in text
    assert "tokens · first token after" in text


def test_chat_when_no_color_is_set_then_nothing_is_styled(url: str, tmp_path: Path) -> None:
    with terminal(url, tmp_path, NO_COLOR="1") as shown:
        shown.type("Hi\n")
        text = shown.expect("first token after")
    assert "│ Easy.\r\nHello!\r\n" in text
    assert DIM not in text


def test_chat_when_ctrl_c_meets_an_answer_then_the_engine_is_freed_and_the_chat_goes_on(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    server.scripts = [[*HELLO[:5], FOREVER]]
    with terminal(url, tmp_path) as shown:
        shown.type("Hi\n")
        shown.expect("Easy")
        shown.process.send_signal(signal.SIGINT)
        shown.expect("interrupted")
        wait_until(lambda: server.streams[0].abandoned)
        shown.expect("you> ")
        shown.type("/retry\n")
        shown.expect("Hello!")
    assert [message.content for message in server.chats[1].messages] == ["Hi"]


def test_chat_when_ctrl_c_meets_the_prompt_then_it_says_how_to_end(url: str, tmp_path: Path) -> None:
    with terminal(url, tmp_path) as shown:
        shown.process.send_signal(signal.SIGINT)
        shown.type("\n")  # a signal between the prompt and readline's wait is seen with the next line
        shown.expect("/quit or Ctrl-D")
        shown.expect("you> ")
        shown.type("/quit\n")
        assert shown.process.wait(20) == 0


def test_chat_when_begun_again_then_earlier_lines_are_there_to_edit(url: str, tmp_path: Path) -> None:
    with terminal(url, tmp_path) as shown:
        shown.type("Who are you?\n/quit\n")
        assert shown.process.wait(20) == 0
    with terminal(url, tmp_path) as shown:
        shown.type("\x1b[A\x1b[A\n")  # up, up: the question before /quit
        shown.expect("Hello!")
    assert (tmp_path / HISTORY).stat().st_mode & 0o777 == 0o600


def test_chat_when_the_terminal_is_closed_then_what_was_typed_is_remembered(url: str, tmp_path: Path) -> None:
    with terminal(url, tmp_path) as shown:
        shown.type("Who are you?\n")
        shown.expect("you> ")
        shown.process.send_signal(signal.SIGHUP)
        shown.process.wait(20)
    assert (tmp_path / HISTORY).read_text() == "Who are you?\n"


def test_chat_when_a_block_is_pasted_then_it_is_one_question(url: str, server: FakeModelServer, tmp_path: Path) -> None:
    with terminal(url, tmp_path) as shown:
        shown.type("\x1b[200~one\ntwo\n\x1b[201~\n")
        shown.expect("Hello!")
    assert [chat.messages[0].content for chat in server.chats] == ["one\ntwo"]


# --- in pipes ---------------------------------------------------------------------------------------------------------


def test_chat_when_piped_then_only_the_answers_go_out_and_turns_are_remembered(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    done = piped(url, tmp_path, "Hi\n\nMore \\\nlines\n/quit\nnever\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "│ Easy.\nHello!\n" * 2
    assert [message.content for message in server.chats[1].messages] == ["Hi", "Hello!", "More \nlines"]


def test_chat_when_told_how_to_answer_then_the_requests_say_so(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    done = piped(url, tmp_path, "/effort high\n/system Be brief.\n/model gpt-oss-demo\nHi\n/new\n/system -\nHo\n")
    assert done.returncode == 0, done.stderr
    first, second = server.chats
    assert first.reasoning_effort is ReasoningEffort.HIGH
    assert [message.content for message in first.messages] == ["Be brief.", "Hi"]
    assert [message.content for message in second.messages] == ["Ho"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("/effort much", "none, low, medium, high"),
        ("/model gpt-9", "gpt-oss-demo"),
        ("/profile fast", "balanced"),
        ("/retry", "nothing was asked"),
        ("/save", "FILE"),
        ("/save ~nobody-at-all/x.md", "cannot write ~nobody-at-all/x.md"),
        ("/nonsense", "/help"),
        ("/help", "/retry"),
        ("/stats", "gpt-oss-demo (balanced): 0 running"),
    ],
)
def test_chat_when_a_command_is_given_then_it_says_what_is_what(url: str, tmp_path: Path, line: str, word: str) -> None:
    done = piped(url, tmp_path, f"{line}\n")
    assert word in done.stderr
    assert (done.returncode, done.stdout) == (0, "")


def test_chat_when_tools_are_on_then_the_call_is_run_and_its_result_goes_back(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    server.scripts = [answer(CALL)]
    with terminal(url, tmp_path, "--tools") as shown:
        shown.type("6*7?\n")
        shown.expect('→ calculate {"expression":"6*7"}')
        shown.expect("← 42")
        shown.expect("Hello!")
    question, call, result = server.chats[1].messages
    assert (question.content, call.reasoning, call.tool_calls[0].name) == ("6*7?", "Compute.", "calculate")
    assert (result.content, result.tool_call_id) == ("42", call.tool_calls[0].id)


def test_chat_when_a_model_calls_tools_for_ever_then_the_turn_ends(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    server.script = answer(CALL)
    done = piped(url, tmp_path, "6*7?\n", "--tools")
    assert done.returncode == 0
    assert len(server.chats) == 8


def test_chat_when_the_server_fails_then_its_sentence_is_told_and_the_turn_is_taken_back(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    server.scripts = [[*HELLO[:-2], ServiceUnavailableError("The model server is gone.")]]
    done = piped(url, tmp_path, "Hi\nHo\n")
    assert "error: The model server is gone." in done.stderr
    assert [message.content for message in server.chats[1].messages] == ["Ho"]
    assert done.returncode == 0
    server.preprocess_error = ServiceUnavailableError("Gone again.")
    assert piped(url, tmp_path, "Hi\n").returncode == 1


def test_chat_when_a_model_writes_escape_sequences_then_the_terminal_gets_none(
    url: str, server: FakeModelServer, tmp_path: Path
) -> None:
    server.script = ESCAPES
    with terminal(url, tmp_path, NO_COLOR="1") as shown:
        shown.type("Hi\n")
        text = shown.expect("safe")
    assert "\x1b]0" not in text
    assert "\x1b[2J" not in text


def test_chat_when_saved_then_the_file_goes_on_with_the_talk_and_none_is_overwritten(url: str, tmp_path: Path) -> None:
    kept, prose = tmp_path / "talk.json", tmp_path / "talk.md"
    done = piped(url, tmp_path, f"Hi\n/save {kept}\n/save {prose}\n/save {kept}\n")
    messages = json.loads(kept.read_text())["messages"]
    assert [(message["role"], message["content"]) for message in messages] == [("user", "Hi"), ("assistant", "Hello!")]
    assert prose.read_text() == "**user**\n\nHi\n\n**assistant**\n\nHello!\n"
    assert f"{kept} is there already" in done.stderr


def test_chat_when_no_server_runs_then_it_says_how_to_start_one(tmp_path: Path) -> None:
    command = [str(GPTOSS), "chat", "--run-dir", str(tmp_path)]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, env=environment(tmp_path))
    assert done.returncode == 1
    assert "make serve" in done.stderr
    assert "--url" in done.stderr


# --- tools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3 * 4", "14"), ("-(1/4)", "-0.25"), ("sqrt(2)**2 > 1", "error"), ("max(1, 2) % 2", "0"), ("2**10", "1024")],
)
def test_calculate_when_given_arithmetic_then_it_computes(expression: str, value: str) -> None:
    assert run_tool("calculate", json.dumps({"expression": expression})).startswith(value)


@pytest.mark.parametrize(
    "expression",
    ["9**9**9", "__import__('os')", "(1).real", "1/0", "10**1000", "(" * 150, "2 +", "9" * 300, "exp(999)", "True"],
)
def test_calculate_when_it_is_dangerous_or_senseless_then_the_model_reads_why(expression: str) -> None:
    begun = time.monotonic()
    result = run_tool("calculate", json.dumps({"expression": expression}))
    assert result.startswith("error: ") or len(result) < 1100
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("nothing", "{}"), ("calculate", "{"), ("calculate", "[]"), ("calculate", "{}"), ("calculate", '{"a":"1"}'),
        ("current_time", '{"timezone":"Mars/Base"}'), ("current_time", '{"timezone":"../../etc/passwd"}'),
    ],
)  # fmt: skip
def test_tool_when_called_wrongly_then_the_model_reads_why(name: str, arguments: str) -> None:
    assert run_tool(name, arguments).startswith("error: ")


def test_current_time_when_a_zone_is_named_then_it_is_told_there() -> None:
    assert run_tool("current_time", '{"timezone":"Asia/Kolkata"}').endswith("+05:30")
