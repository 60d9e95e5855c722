"""The lines that the adapter logs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.logs import DescriptorHandler, JsonFormatter, RequestIdFilter, TextFormatter, fields, log_config
from gptoss_backend.settings_sources import load_settings
from support.fake_adapter import adapter_process
from support.fake_model_server import FakeModelServer
from support.live_app import chat_body, live, wait_until

CHAT = "/v1/chat/completions"


def record(message: str = "hello", **extra: object) -> logging.LogRecord:
    made = logging.getLogger("test").makeRecord("test", logging.INFO, "file", 1, message, (), None, extra=extra)
    RequestIdFilter().filter(made)
    return made


def test_json_when_a_line_has_fields_then_they_stand_beside_the_message() -> None:
    line = JsonFormatter().format(record(**fields({"ttft_ms": 1.5, "key": "alice"}, in_message={"status": 200})))
    document = json.loads(line)
    assert (document["level"], document["logger"], document["request_id"]) == ("info", "test", "-")
    assert (document["status"], document["ttft_ms"], document["key"]) == (200, 1.5, "alice")
    assert document["time"].endswith("Z")
    assert line.isascii()


def test_json_when_an_error_is_logged_then_its_traceback_is_in_the_line() -> None:
    made = record("odd\n\u2028")
    try:
        raise ValueError("why")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert "ValueError: why" in json.loads(line)["exception"]


def test_text_when_a_field_holds_line_ends_then_the_line_stays_one() -> None:
    line = TextFormatter().format(record(**fields({"request": "a\n2026-01-01 INFO forged", "n": 1}, in_message={})))
    assert line.endswith(r'hello request="a\n2026-01-01 INFO forged" n=1')
    assert "\n" not in line


def test_handler_when_the_disk_is_full_or_the_reader_gone_then_the_line_is_dropped() -> None:
    with Path("/dev/full").open("w") as full:
        handler = DescriptorHandler(full.fileno())
        handler.setFormatter(TextFormatter())
        handler.handle(record())
    reader, writer = os.pipe()
    os.close(reader)
    DescriptorHandler(writer).handle(record())
    os.close(writer)


@pytest.mark.parametrize(("log_format", "is_json"), [("auto", True), ("text", False), ("json", True)])
def test_process_when_its_log_is_a_pipe_then_auto_means_json(log_format: str, is_json: bool) -> None:
    with adapter_process(ADAPTER__LOG_FORMAT=log_format) as adapter:
        httpx.post(f"{adapter.url}{CHAT}", json=chat_body(), headers={"X-Request-Id": "mine"})
        adapter.process.terminate()
        _, log = adapter.process.communicate(timeout=10)
    [line] = [line for line in log.splitlines() if "mine" in line]
    if not is_json:
        assert " INFO mine gptoss_adapter.edge: POST /v1/chat/completions 200 duration_ms=" in line
        return
    document = json.loads(line)
    assert (document["request_id"], document["status"], document["model"]) == ("mine", 200, "gpt-oss-demo")
    assert {"profile", "prompt_tokens", "cached_tokens", "completion_tokens", "queue_ms", "ttft_ms", "duration_ms"} <= (
        document.keys()
    )
    assert document["outcome"] == "stop"


def test_log_config_when_auto_and_a_file_then_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as log:
        monkeypatch.setattr(sys, "stderr", log)
        config = log_config("info", "auto")
    assert config["formatters"]["line"]["()"] is TextFormatter


# --- what a request's line tells ------------------------------------------------------------------------------------


def serving(**adapter: object) -> Iterator[httpx.Client]:
    settings = load_settings({"model": "demo", "adapter": adapter}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url, httpx.Client(base_url=url) as client:
        yield client


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [TextFormatter().format(one) for one in caplog.records if one.name == "gptoss_adapter.edge"]


def asked(caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any], **adapter: object) -> str:
    caplog.handler.addFilter(RequestIdFilter())
    with caplog.at_level(logging.INFO, logger="gptoss_adapter"):
        for client in serving(**adapter):
            client.post(path, json=body)
            wait_until(lambda: len(lines_of(caplog)) == 1)
    return lines_of(caplog)[0]


@pytest.mark.parametrize("stream", [True, False])
def test_line_when_content_is_not_asked_for_then_it_tells_no_word_of_it(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    asked(caplog, CHAT, chat_body(messages=[{"role": "user", "content": "SECRET"}], stream=stream))
    assert "SECRET" not in caplog.text
    assert "Hello" not in caplog.text


@pytest.mark.parametrize("stream", [True, False])
def test_line_when_content_is_asked_for_then_both_sides_are_in_it(
    caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    body = chat_body(messages=[{"role": "user", "content": "SECRET"}], stream=stream)
    line = asked(caplog, CHAT, body, log_content=True)
    assert "SECRET" in line
    assert "Hello" in line


def test_line_when_content_is_long_then_its_beginning_is_told(caplog: pytest.LogCaptureFixture) -> None:
    body = chat_body(messages=[{"role": "user", "content": "x" * 200_000}])
    line = asked(caplog, CHAT, body, log_content=True)
    assert "bytes more" in line
    assert len(line) < 80_000


def test_line_when_the_path_holds_an_encoded_line_end_then_the_line_stays_one(caplog: pytest.LogCaptureFixture) -> None:
    line = asked(caplog, "/a%0A2026-01-01%20INFO%20forged", {})
    assert "\n" not in line
    assert "/a%0A2026" in line
