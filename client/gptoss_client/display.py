"""How the commands talk to the person at the terminal while a server starts and ends.

Stage: `gptoss serve`.
Owns: the progress lines (a live one on a terminal, plain ones elsewhere), the words on how to use a server.
Does not know: how anything is started or probed.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status

from gptoss_backend.model_names import ModelName
from gptoss_client.addresses import Addresses
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Death
from gptoss_client.triton_command import loaded_layers

_REPEAT_S: Final = 10.0
_BAR_WIDTH: Final = 24
_FACT: Final = re.compile(r'"(precision|placement|memory plan|KV cache): ([^"\n]+)"')
# A closed terminal is an OSError; at a pipe that nobody reads, rich asks the process to exit; a sign
# that the encoding lacks is a UnicodeError. The server is to go on.
CONSOLE_GONE: Final = (OSError, SystemExit, UnicodeError)


class Display:
    """Tells of a server's start and end on a console. A console that is gone silences it and harms nothing."""

    def __init__(
        self,
        console: Console,
        usage: Sequence[str] = (),
        *,
        triton_logs: Sequence[Path] = (),
        with_time: bool = False,
    ) -> None:
        """usage: the lines to print once the server is ready. with_time: each line begins with the time.

        triton_logs: where each tritonserver has by then said what it made of this machine.
        """
        self._console = console
        self._usage = usage
        self._triton_logs = triton_logs
        self._with_time = with_time
        self._status: Status | None = None
        self._awaited: tuple[str, ...] = ()
        self._was_ready = False
        self._told_at = 0.0

    def started(self, processes: Sequence[ProcessRecord]) -> None:
        """Say nothing: what is awaited follows at once."""

    def waiting(self, awaited: Sequence[str], elapsed_s: float) -> None:
        """Show what is awaited: always on a terminal, elsewhere when it changes and now and then; of a restart not."""
        line = f"{elapsed_s:.0f} s: {'; '.join(awaited)}{self._loaded()}"
        if self._console.is_terminal:
            self._show_live(line)
        elif self._was_ready:
            return
        elif tuple(awaited) != self._awaited or time.monotonic() - self._told_at > _REPEAT_S:
            self._awaited, self._told_at = tuple(awaited), time.monotonic()
            self.say(line)

    def ready(self, elapsed_s: float) -> None:
        """Say that the server is ready and how to use it."""
        self._end_live()
        self._was_ready = True
        self.say(f"ready in {elapsed_s:.1f} s")
        facts = dict.fromkeys(fact for log in self._triton_logs for fact in engine_facts(log))
        for line in (*facts, *self._usage):
            self.say(line)

    def died(self, death: Death, delay_s: float) -> None:
        """Say what died and when it is started again."""
        self._end_live()
        self.say(f"{death.reason}: starting {death.name} again in {delay_s:g} s")

    def recovered(self, elapsed_s: float) -> None:
        """Say that the server is ready again."""
        self._end_live()
        self.say(f"ready again after {elapsed_s:.1f} s")

    def ending(self, name: str) -> None:
        """Say that a process is asked to end."""
        self._end_live()
        self.say(f"stopping {name}")

    def failed(self, sentence: str) -> None:
        """Say why the server is not there any more, in the form `failure_in` finds again."""
        self._end_live()
        self.say(f"error: {sentence}")

    def close(self) -> None:
        """End the live line, if there is one."""
        self._end_live()

    def say(self, line: str) -> None:
        """Print a line as it is: not wrapped, so that it can be copied."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if self._with_time else ""
        with contextlib.suppress(*CONSOLE_GONE):
            self._console.print(f"{stamp}{line}", soft_wrap=True, markup=False, highlight=False)

    def _loaded(self) -> str:
        """Return a bar that shows how much of the model has been read, by all replicas, where their logs tell."""
        of_each = [loaded_layers(log) for log in self._triton_logs]
        done, total = sum(done for done, _ in of_each), len(of_each) * max((total for _, total in of_each), default=0)
        if not 0 < done < total:
            return ""
        filled = _BAR_WIDTH * done // total
        told = (
            f"layer {done} of {total}" if len(of_each) == 1 else f"{done} of {total} layers of {len(of_each)} replicas"
        )
        return f" [{'=' * filled}{' ' * (_BAR_WIDTH - filled)}] {told}"

    def _show_live(self, text: str) -> None:
        with contextlib.suppress(*CONSOLE_GONE):
            if self._status is None:
                self._status = self._console.status(text)
                self._status.start()
            self._status.update(text)

    def _end_live(self) -> None:
        with contextlib.suppress(*CONSOLE_GONE):
            if self._status is not None:
                self._status.stop()
        self._status = None


def failure_in(log: str) -> str | None:
    """Return the sentence, and what follows it, that a display with the time on its lines told as a failure."""
    found = re.search(r"^\S+ \S+ error: (.*)", log, flags=re.MULTILINE | re.DOTALL)
    return found.group(1).strip() if found else None


def engine_facts(triton_log: Path) -> tuple[str, ...]:
    """Return what the engines logged of their precision, placement and memory, without repetitions."""
    with contextlib.suppress(OSError):
        text = triton_log.read_text(encoding="utf-8", errors="replace")
        return tuple(dict.fromkeys(f"{name:<11} {told}" for name, told in _FACT.findall(text)))
    return ()


def how_to_use(
    model: ModelName, addresses: Addresses, logs: Path, how_to_stop: str, *, asks_for_key: bool, is_open: bool = False
) -> tuple[str, ...]:
    """Return what a person needs once the server is ready: what to open, a first request, the way out.

    is_open: others may come in without a key.
    """
    page = (f"to look at  {addresses.page}",) if addresses.page is not None else ()
    api = f"OpenAI API  {addresses.api}"
    warning = ("for all     who reach this machine: adapter.keys_path asks them for a key",) if is_open else ()
    request = curl_line(model, addresses.api, asks_for_key=asks_for_key)
    return (api, *page, *warning, f"logs        {logs}", "", request, "", how_to_stop)


def curl_line(model: ModelName, api: str, *, asks_for_key: bool) -> str:
    """Return a shell line that streams a first chat. asks_for_key: it takes that of the environment then."""
    request = {
        "model": model.openai,
        "messages": [{"role": "user", "content": "Say hello."}],
        "max_tokens": 64,
        "stream": True,
    }
    # the certificate need not name this machine
    options = "-kN" if api.startswith("https:") else "-N"
    key = """-H "Authorization: Bearer $OPENAI_API_KEY" """ if asks_for_key else ""
    return f"curl {options} {api}/chat/completions {key}-H 'Content-Type: application/json' -d '{json.dumps(request)}'"
