"""The store of responses: what outlives an adapter, and what is answered where it fails."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from support.fake_model_server import FakeModelServer
from support.responses_api import RESPONSES, assert_not_found, refusal, respond, serving, stream


def test_store_when_the_adapter_is_restarted_then_what_was_kept_is_still_there(tmp_path: Path) -> None:
    server = FakeModelServer()
    with serving(tmp_path / "new" / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        told = respond(client)
    with serving(tmp_path / "new" / "r.sqlite", server) as url, httpx.Client(base_url=url) as client:
        assert client.get(f"{RESPONSES}/{told['id']}").json() == told


def test_store_when_it_is_in_memory_then_it_works_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with serving(Path(":memory:"), FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        told = respond(client)
        respond(client, previous_response_id=told["id"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("streamed", [False, True])
def test_store_when_it_fails_then_the_answer_is_given_all_the_same_and_says_that_it_is_not_kept(
    tmp_path: Path, streamed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file, not a folder")
    with serving(tmp_path / "taken" / "r.sqlite", FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        with caplog.at_level(logging.ERROR, "gptoss_adapter.responses.keeping.store_thread"):
            told = stream(client)[-1]["response"] if streamed else respond(client)
        assert (told["status"], told["store"]) == ("completed", False)
        assert "the store of responses failed" in caplog.text
        assert refusal(client, 503, previous_response_id=told["id"])["code"] == "service_unavailable"


def test_store_when_its_file_is_damaged_then_503_and_not_500(tmp_path: Path) -> None:
    (tmp_path / "r.sqlite").write_bytes(b"not a database " * 1000)
    with serving(tmp_path / "r.sqlite", FakeModelServer()) as url, httpx.Client(base_url=url) as client:
        assert respond(client)["store"] is False
        assert client.get(f"{RESPONSES}/resp_1").status_code == 503


def test_store_when_an_answer_is_larger_than_it_then_the_answer_is_given_and_not_kept(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "r.sqlite", FakeModelServer(), responses_max_bytes=1024 * 1024) as url,
        httpx.Client(base_url=url) as client,
    ):
        assert respond(client, "long " * 400_000)["store"] is False
        kept = respond(client)
        assert kept["store"] is True
        assert client.get(f"{RESPONSES}/{kept['id']}").status_code == 200


def test_store_when_it_is_used_by_two_processes_then_both_see_all_of_it(tmp_path: Path) -> None:
    server = FakeModelServer()
    path = tmp_path / "r.sqlite"
    with (
        serving(path, server) as one,
        serving(path, server) as other,
        httpx.Client(base_url=one) as first,
        httpx.Client(base_url=other) as second,
    ):
        told = respond(first)
        respond(second, previous_response_id=told["id"])
        second.delete(f"{RESPONSES}/{told['id']}")
        assert_not_found(first.get(f"{RESPONSES}/{told['id']}"), told["id"])
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (1,)
