"""Bad input gets a clear error in OpenAI's shape, and harms nobody else's request."""

from __future__ import annotations

import os
import signal
from typing import Any

import httpx
import openai
import pytest

from support.live_server import LiveServer

MODEL = "gpt-oss-demo"
Body = dict[str, Any] | bytes
HELLO = [{"role": "user", "content": "hello"}]


def post(server: LiveServer, body: Body) -> httpx.Response:
    content = body if isinstance(body, bytes) else None
    return httpx.post(
        f"{server.url}/v1/chat/completions",
        content=content,
        json=None if content is not None else body,
        headers={"Content-Type": "application/json"},
        timeout=60.0,
    )


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b'{"model": "gpt-oss-demo", "messages": [', 400, "JSON"),
        (b"[]", 400, "object"),
        ({"messages": HELLO}, 400, "model"),
        ({"model": "gpt-4o", "messages": HELLO}, 404, "gpt-4o"),
        ({"model": MODEL, "messages": []}, 400, "messages"),
        ({"model": MODEL, "messages": HELLO, "max_tokens": -2}, 400, "max_tokens"),
        ({"model": MODEL, "messages": HELLO, "max_tokens": 0}, 400, "max_tokens"),
        ({"model": MODEL, "messages": HELLO, "temperature": 3}, 400, "temperature"),
        ({"model": MODEL, "messages": HELLO, "n": 129}, 400, "n"),
        ({"model": MODEL, "messages": HELLO, "no_such_field": 1}, 400, "no_such_field"),
        ({"model": MODEL, "messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
        ({"model": MODEL, "messages": [{"role": "tool", "content": "x", "tool_call_id": "none"}]}, 400, "tool_call_id"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_request_when_it_is_wrong_then_a_plain_error_names_what(
    server: LiveServer,
    body: Body,
    status: int,
    word: str,
    stream: bool,
) -> None:
    answer = post(server, body | {"stream": True} if stream and isinstance(body, dict) else body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert word in error["message"] + str(error["param"])
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_prompt_when_too_long_for_the_context_then_400_with_openais_code(server: LiveServer, stream: bool) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "word " * 140_000}], "stream": stream}
    answer = post(server, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "This model's maximum context length is 131072 tokens. However, your prompt has" in error["message"]


def test_error_when_the_official_client_meets_it_then_it_is_of_the_right_class(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=-5)  # type: ignore[arg-type]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=HELLO)  # type: ignore[arg-type]


def test_triton_when_it_does_not_answer_then_503_and_service_returns_with_it(server: LiveServer) -> None:
    stubs = _processes(server, "triton_python_backend_stub")
    [triton] = _processes(server, "bin/tritonserver")
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 3}
    assert post(server, body).status_code == 200
    assert stubs
    os.kill(triton, signal.SIGSTOP)
    try:
        assert httpx.get(f"{server.url}/health", timeout=30.0).status_code == 503
    finally:
        os.kill(triton, signal.SIGCONT)
    assert post(server, body).status_code == 200


def _processes(server: LiveServer, command: str) -> list[int]:
    """Return the pids of the server's processes whose command line holds `command`."""
    import psutil

    family = psutil.Process(server.process.pid).children(recursive=True)
    return [process.pid for process in family if command in " ".join(process.cmdline())]
