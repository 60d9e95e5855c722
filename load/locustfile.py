"""Simulated people who chat with a running server, and whether it kept its promises to them.

Stage: before 1 route and behind 7 SSE.
Owns: what happens when locust begins and ends a test, the exit status.
Does not know: what the people do (users), what the report holds (report).

    locust -f load/locustfile.py --headless -u 8 -r 8 -t 30s --host http://127.0.0.1:8000 --out /tmp/report

`make load` starts a server beside it. The process ends with 1 if a service target was missed.
"""

from __future__ import annotations

from typing import Any

from locust import events
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner
from locust.stats import console_logger

from load.chat_client import ChatClient
from load.records import ChatRecord
from load.report.files import write_run
from load.report.summary import summarize
from load.report.text import render
from load.users.kinds import Conversation, Document, EnsembleCaller, Impatient, ShortChat, Structured, ToolCaller
from load.users.options import Options, add_options
from load.users.run import RUN

__all__ = ["Conversation", "Document", "EnsembleCaller", "Impatient", "ShortChat", "Structured", "ToolCaller"]


def choose_kinds(environment: Environment, **_: object) -> None:
    """Leave out those who would not know where to go."""
    if Options.of(environment).triton_grpc is None and EnsembleCaller in environment.user_classes:
        environment.user_classes.remove(EnsembleCaller)


def start(environment: Environment, **_: object) -> None:
    """Begin the run's figures, and the messages that come by a rate."""
    has_users = not isinstance(environment.runner, MasterRunner)
    RUN.start(Options.of(environment), getattr(environment.runner, "worker_index", 0), has_users=has_users)
    if not _is_worker(environment):
        RUN.note_server(_client(environment))


def stopping(environment: Environment, **_: object) -> None:
    """End the run's clock; chats under way go on to their end."""
    RUN.end()


def hand_over(data: dict[str, Any], **_: object) -> None:
    """On a worker: send what was measured since the last report."""
    data["chats"] = list(RUN.records)
    RUN.records.clear()


def take_over(data: dict[str, Any], **_: object) -> None:
    """On the master: add a worker's measurements."""
    RUN.records += [ChatRecord(*row) for row in data.get("chats", ())]


def conclude(environment: Environment, **_: object) -> None:
    """Write the report and set the exit code: 0 where every target was held, else 1."""
    if _is_worker(environment):
        return
    options = Options.of(environment)
    num_users = getattr(environment.runner, "target_user_count", 0)
    facts = RUN.facts(options, _client(environment), str(environment.host), num_users)
    summary = summarize(RUN.records, facts)
    RUN.last_words = render(summary)
    if options.out is not None:
        RUN.last_words += f"\n\nreport: {write_run(options.out, RUN.records, summary)}"
    environment.process_exit_code = 0 if summary.all_held else 1


def say_last_words(**_: object) -> None:
    """Say how it went, below locust's own tables."""
    if RUN.last_words:  # a worker of locust's has none
        console_logger.info("%s\n", RUN.last_words)


def _client(environment: Environment) -> ChatClient:
    return ChatClient(str(environment.host), api_key=Options.of(environment).api_key)


def _is_worker(environment: Environment) -> bool:
    return isinstance(environment.runner, WorkerRunner)


for hook, listener in (
    (events.init_command_line_parser, add_options),
    (events.init, choose_kinds),
    (events.test_start, start),
    (events.test_stopping, stopping),
    (events.report_to_master, hand_over),
    (events.worker_report, take_over),
    (events.test_stop, conclude),
    (events.quit, say_last_words),
):
    hook.add_listener(listener)  # type: ignore[no-untyped-call]  # locust leaves it unannotated
