"""locust's people, run against a server that keeps what they asked."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from load.locust_process import LoadOrder, Server
from load.run import argument_parser, server_of

from support.fake_openai import FakeOpenAI


def run(server: FakeOpenAI, out: Path, *more: str, rate: float | None = None) -> tuple[int, dict[str, Any]]:
    """Let ten people chat for three seconds. Return locust's exit status and the run's summary."""
    order = LoadOrder(Server(server.url), 10, 3.0, out, seed=3, rate=rate, more=more)
    log = out.parent / "locust.log"
    status = order.run(log=log)
    assert (out / "summary.json").exists(), log.read_text(encoding="utf-8")
    return status, json.loads((out / "summary.json").read_text(encoding="utf-8"))


def test_run_when_every_kind_of_user_comes_then_each_does_what_it_is_for(tmp_path: Path) -> None:
    with FakeOpenAI().serving() as server:
        status, summary = run(server, tmp_path / "out", "--think-s", "0.2", "--api-key", "secret")

    with (tmp_path / "out" / "chats.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    outcomes = Counter((row["kind"], row["outcome"]) for row in rows)
    assert status == 0
    assert set(outcomes) == {
        ("short chat", "answered"),
        ("conversation", "answered"),
        ("document", "answered"),
        ("tool calls", "answered"),
        ("structured", "answered"),
        ("impatient", "left early"),
    }
    assert outcomes.total() == len(server.chats) == summary["all"]["num_chats"]
    assert {chat["model"] for chat in server.chats} == {"first-model"}
    assert server.keys == {"Bearer secret"}
    assert summary["facts"]["cache_hit_share"] == 1.0
    results = [chat["messages"] for chat in server.chats if chat["messages"][-1]["role"] == "tool"]
    assert results
    assert all(messages[-2]["tool_calls"][0]["id"] == messages[-1]["tool_call_id"] for messages in results)
    turns = [len(chat["messages"]) for chat in server.chats if len(chat["messages"]) > 1 and "tools" not in chat]
    assert set(turns) >= {3, 5}
    assert max(turns) <= 7
    assert all(float(row["e2e_s"]) >= float(row["ttft_s"]) > 0 for row in rows)


def test_run_when_the_server_refuses_then_targets_are_broken_and_the_exit_status_says_so(tmp_path: Path) -> None:
    with FakeOpenAI(fails=True).serving() as server:
        status, summary = run(server, tmp_path / "out", "--think-s", "0.3", "ShortChat")

    assert status == 1
    assert summary["all"]["outcomes"].keys() == {"failed"}
    assert [fault for fault, _ in summary["faults"]] == ["short chat: HTTP 503: as many wait as may"]


def test_run_when_messages_come_by_a_rate_and_a_form_is_broken_then_as_many_come_and_each_failed(
    tmp_path: Path,
) -> None:
    with FakeOpenAI(form='{"port": ').serving() as server:
        status, summary = run(server, tmp_path / "out", "Structured", rate=5.0)

    assert status == 1
    assert summary["all"]["num_chats"] == pytest.approx(15, abs=10)
    assert [fault for fault, _ in summary["faults"]] == ["structured: a structured answer is not JSON"]
    assert summary["facts"]["rate"] == 5.0


def test_command_when_users_are_many_then_they_come_over_the_first_tenth() -> None:
    def spawn_rate(num_users: int, duration_s: float, rate: float | None = None) -> float:
        command = LoadOrder(Server("http://here"), num_users, duration_s, Path("out"), rate=rate).command()
        return float(command[command.index("--spawn-rate") + 1])

    assert spawn_rate(200, 300.0) == pytest.approx(200 / 30, rel=1e-4)
    assert spawn_rate(1000, 10.0) == 50.0
    assert spawn_rate(2, 300.0) == 1.0
    assert spawn_rate(2, 300.0, rate=1.0) == 50.0


def test_command_when_with_the_web_page_then_locust_waits_for_it_to_be_used() -> None:
    order = LoadOrder(Server("http://here", "m", "here:8001"), 2, 10.0, Path("out"), more=("ShortChat",))

    assert "--headless" in order.command()
    assert "--headless" not in order.command(web=True)
    assert order.command()[:3] == [sys.executable, "-m", "locust"]
    assert order.command()[-1] == "ShortChat"
    assert " --triton-grpc here:8001 " in " ".join(order.command())


def test_server_when_a_url_is_named_then_none_is_started_and_a_profile_is_refused(tmp_path: Path) -> None:
    parser = argument_parser("load", "")

    with server_of(parser.parse_args(["--url", "http://there", "--model", "20b"]), tmp_path) as server:
        assert server == Server("http://there", "gpt-oss-20b")
    with (
        pytest.raises(SystemExit, match="--profile is for a server that is started here"),
        server_of(parser.parse_args(["--url", "http://there", "--profile", "balanced"]), tmp_path),
    ):
        pass
    with (
        pytest.raises(SystemExit, match="must be one of demo, 20b, 120b, not 'huge'"),
        server_of(parser.parse_args(["--model", "huge"]), tmp_path),
    ):
        pass
