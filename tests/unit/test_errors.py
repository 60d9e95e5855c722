"""Every way a request can go wrong, in OpenAI's shape."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import ApiError, ServiceUnavailableError, TooManyRequestsError, refusal_of
from gptoss_adapter.logs import RequestIdFilter, TextFormatter
from gptoss_backend.contract import GenerationErrorCode, decode_error, encode_error
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import chat_body, live, wait_until

MAX_BODY_BYTES = 4096
SETTINGS = load_settings(
    {
        "model": "demo",
        "adapter": {"max_body_bytes": MAX_BODY_BYTES, "max_messages": 3, "max_choices": 3, "body_timeout_s": 0.3},
    },
    environ={},
)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture(scope="module")
def client(server: FakeModelServer) -> Iterator[httpx.Client]:
    app: FastAPI = create_app(SETTINGS, model_server=server)

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("a secret")

    with live(app) as url, httpx.Client(base_url=url) as client:
        yield client


def fault(response: httpx.Response, status: int) -> dict[str, str | None]:
    """Check that the response is an error in OpenAI's shape and return the inner object."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    document = response.json()
    assert set(document) == {"error"}
    assert set(document["error"]) == {"message", "type", "param", "code"}
    assert document["error"]["message"].endswith((".", ")"))
    inner: dict[str, str | None] = document["error"]
    return inner


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "model", "missing_required_parameter"),
        ({"model": "gpt-oss-demo"}, "messages", "missing_required_parameter"),
        (chat_body(messages=[]), "messages", "invalid_value"),
        (chat_body(messages="Hi"), "messages", "invalid_type"),
        (chat_body(messages=[{"role": "user"}]), "messages[0].content", "missing_required_parameter"),
        (chat_body(messages=[{"content": "Hi"}]), "messages[0].role", "invalid_value"),
        (chat_body(messages=[{"role": "king", "content": "Hi"}]), "messages[0].role", "invalid_value"),
        (chat_body(messages=[{"role": "user", "content": 5}]), "messages[0].content", "invalid_type"),
        (
            chat_body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
            "messages[0].content[0]",
            "invalid_value",
        ),
        (chat_body(messages=[{"role": "user", "content": "Hi"}] * 4), "messages", "invalid_value"),
        (chat_body(max_tokens=-2), "max_tokens", "invalid_value"),
        (chat_body(max_tokens="many"), "max_tokens", "invalid_type"),
        (chat_body(max_tokens=4, max_completion_tokens=5), "max_tokens", "invalid_value"),
        (chat_body(temperature=2.1), "temperature", "invalid_value"),
        (chat_body(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
        (chat_body(stream=True, stream_options={"shout": True}), "stream_options.shout", "unknown_parameter"),
        (
            chat_body(tools=[{"type": "function", "function": {}}]),
            "tools[0].function.name",
            "missing_required_parameter",
        ),
        (chat_body(tool_choice="required"), "tool_choice", "invalid_value"),
        (chat_body(temprature=1), "temprature", "unknown_parameter"),
        (chat_body(n=129), "n", "invalid_value"),
        (chat_body(n=4), "n", "invalid_value"),
        (chat_body(stop=["\n", ""]), "stop[1]", "invalid_value"),
        (chat_body(stop=5), "stop", "invalid_type"),
        (chat_body(top_logprobs=2), "top_logprobs", "invalid_value"),
        (chat_body(logit_bias={"a": 1}), "logit_bias.a", "invalid_value"),
        (chat_body(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
        (
            chat_body(response_format={"type": "json_schema", "json_schema": {}}),
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (
            chat_body(tool_choice={"type": "function", "function": {"name": "f"}}),
            "tool_choice.function.name",
            "invalid_value",
        ),
        (chat_body(model="gpt-oss", profile="quality_first"), "profile", "invalid_value"),
        (chat_body(profile="fastest"), "profile", "invalid_value"),
        (chat_body(functions=[{"name": "f"}]), "functions", "unsupported_parameter"),
    ],
)
def test_chat_when_a_field_is_at_fault_then_400_names_it(
    client: httpx.Client, body: object, param: str, code: str
) -> None:
    error = fault(client.post(CHAT, json=body), 400)
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert f"'{param}'" in str(error["message"]) or param == "messages"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"modalities": ["audio"]}, """this server does not honour it; leave it out or send ["text"]"""),
        (
            {"functions": [{"name": "f"}]},
            "this server does not honour it; say it with 'tools'; leave it out or send []",
        ),
    ],
)
def test_chat_when_a_field_is_not_honoured_then_the_sentence_says_what_would_be_taken(
    client: httpx.Client, fields: dict[str, object], sentence: str
) -> None:
    error = fault(client.post(CHAT, json=chat_body(**fields)), 400)
    assert error["message"] == f"Unsupported value for '{next(iter(fields))}': {sentence}."


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "gpt-oss-demo"}, "prompt"),
        ({"model": "gpt-oss-demo", "prompt": []}, "prompt"),
        ({"model": "gpt-oss-demo", "prompt": [1, "a"]}, "prompt[1]"),
        ({"model": "gpt-oss-demo", "prompt": "x", "suffix": "y"}, "suffix"),
        ({"model": "gpt-oss-demo", "prompt": "x", "best_of": 2}, "best_of"),
        ({"model": "gpt-oss-demo", "prompt": ["x", "y"], "n": 2}, "n"),
        ({"model": "gpt-oss-demo", "prompt": "x", "stream_options": {}}, "stream_options"),
        ({"model": "gpt-oss-demo", "prompt": "x", "messages": []}, "messages"),
    ],
)
def test_completion_when_a_field_is_at_fault_then_400_names_it(client: httpx.Client, body: object, param: str) -> None:
    assert fault(client.post("/v1/completions", json=body), 400)["param"] == param


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": []}, "messages"),
        ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}], "prompt": "Hi"}, "prompt"),
        ("/tokenize", {"messages": [{"role": "user", "content": "Hi"}] * 4}, "messages"),
        ("/detokenize", {"tokens": [1, "a"]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, 201_089]}, "tokens[1]"),
    ],
)
def test_tokens_when_a_field_is_at_fault_then_400_names_it(
    client: httpx.Client, path: str, body: object, param: str
) -> None:
    assert fault(client.post(path, json=body), 400)["param"] == param


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/detokenize"])
def test_request_when_its_model_is_not_served_then_404(client: httpx.Client, path: str) -> None:
    body = {"model": "gpt-4o", "tokens": [1]} if path == "/detokenize" else {"model": "gpt-4o", "prompt": "x"}
    assert fault(client.post(path, json=body), 404)["code"] == "model_not_found"


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b'{"model": "gpt-oss-demo",}',
        b"\xff\xfe",
        b'{"model": "\\ud800", "messages": []}',
        b'{"temperature": NaN}',
        b"[" * 2000,
    ],
    ids=repr,
)
def test_chat_when_the_body_is_not_json_then_400(client: httpx.Client, raw: bytes) -> None:
    error = fault(client.post(CHAT, content=raw, headers={"Content-Type": "application/json"}), 400)
    assert error["code"] == "invalid_json"


def test_chat_when_the_body_begins_with_a_byte_order_mark_then_it_is_read(client: httpx.Client) -> None:
    raw = codecs.BOM_UTF8 + json.dumps(chat_body()).encode()
    client.post(CHAT, content=raw, headers={"Content-Type": "application/json"}).raise_for_status()


def test_chat_when_the_body_is_compressed_then_415_says_so(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = client.post(CHAT, content=gzip.compress(json.dumps(chat_body()).encode()), headers=headers)
    assert "Content-Encoding: gzip; this server takes it uncompressed" in fault(refused, 415)["message"]
    assert refused.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("raw", [b"", b"[]", b"3", b"null", b'"hi"'])
def test_chat_when_the_body_is_no_object_then_400(client: httpx.Client, raw: bytes) -> None:
    error = fault(client.post(CHAT, content=raw, headers={"Content-Type": "application/json"}), 400)
    assert error["message"] == "The request body must be a JSON object."


def test_chat_when_the_body_is_not_declared_as_json_then_415(client: httpx.Client) -> None:
    error = fault(client.post(CHAT, content=b"{}", headers={"Content-Type": "text/plain"}), 415)
    assert error["code"] == "unsupported_content_type"


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-oss-20b", "openai/gpt-oss-20b", ""])
def test_chat_when_the_model_is_not_served_then_404(client: httpx.Client, model: str) -> None:
    error = fault(client.post(CHAT, json=chat_body(model=model)), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_url_when_there_is_nothing_then_404(client: httpx.Client) -> None:
    assert fault(client.post("/v1/nothing"), 404)["code"] == "unknown_url"
    assert fault(client.post("/v1/nothing"), 404)["message"] == "There is nothing at POST /v1/nothing."
    assert fault(client.get("/v1/models/"), 404)["code"] == "model_not_found"


def test_url_when_it_takes_another_method_then_405_and_allow(client: httpx.Client) -> None:
    response = client.get(CHAT)
    assert fault(response, 405)["code"] == "method_not_supported"
    assert response.headers["allow"] == "POST"


def test_body_when_larger_than_allowed_then_413(client: httpx.Client) -> None:
    large = b" " * (MAX_BODY_BYTES + 1)
    assert fault(client.post(CHAT, content=large), 413)["code"] == "request_too_large"
    assert fault(client.post(CHAT, content=iter([large[:3000], large[3000:]])), 413)["code"] == "request_too_large"


def test_body_when_just_as_large_as_allowed_then_it_is_read(client: httpx.Client) -> None:
    body = httpx.Request("POST", "http://x", json=chat_body()).content
    padded = body + b" " * (MAX_BODY_BYTES - len(body))
    assert client.post(CHAT, content=padded, headers={"Content-Type": "application/json"}).status_code == 200


def test_body_when_it_does_not_arrive_then_408_and_the_connection_ends(client: httpx.Client) -> None:
    address = (client.base_url.host, client.base_url.port or 80)
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"within 0.3 s" in answer


def test_error_when_the_client_wrote_much_of_it_then_its_middle_is_left_out(client: httpx.Client) -> None:
    error = fault(client.post(CHAT, json=chat_body(model="x" * 3000)), 404)
    assert len(str(error["message"])) < 1100
    assert str(error["message"]).endswith("this server serves 'gpt-oss-demo'.")
    error = fault(client.post(CHAT, json=chat_body(**{"y" * 3000: 1})), 400)
    assert len(str(error["message"]) + str(error["param"])) < 2200


@pytest.mark.parametrize(
    ("text", "message", "param"),
    [
        ("messages[3]: content is missing", "messages[3]: content is missing.", "messages[3]"),
        ("messages[3].tool_calls[0]: 'x y' is no name.", "messages[3].tool_calls[0]: 'x y' is no name.", None),
        ("response_format.json_schema.schema: odd", "response_format.json_schema.schema: odd.", None),
        ("min_tokens is 5, more than max_tokens, 4", "min_tokens is 5, more than max_tokens, 4.", "min_tokens"),
        ("the prompt is empty", "The prompt is empty.", ""),
        ("CHAT.messages: Field required", "CHAT.messages: Field required.", ""),
    ],
)
def test_refusal_when_its_sentence_begins_with_a_field_then_that_is_the_param(
    text: str, message: str, param: str | None
) -> None:
    error = refusal_of(text)
    assert error.message == message
    assert error.param == (text.partition(":")[0] if param is None else param or None)


def test_route_when_it_fails_unexpectedly_then_500_tells_the_request_id_only(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    error = fault(client.get("/broken", headers={"X-Request-Id": "my-id"}), 500)
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert "my-id" in str(error["message"])
    assert "secret" not in str(error["message"])
    assert "ZeroDivisionError: a secret" in caplog.text


def test_triton_when_it_is_not_there_then_503_and_retry_after(client: httpx.Client, server: FakeModelServer) -> None:
    server.preprocess_error = ServiceUnavailableError("Not there.")
    try:
        response = client.post(CHAT, json=chat_body(stream=True))
    finally:
        server.preprocess_error = None
    assert fault(response, 503)["type"] == "server_error"
    assert response.headers["retry-after"] == "5"


def test_queue_when_full_then_429_and_retry_after() -> None:
    response = TooManyRequestsError("Full.").response()
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_error_when_its_text_is_hostile_then_the_body_is_still_ascii_json() -> None:
    assert ApiError("\ud800 “x”\n").body().isascii()


def test_response_when_it_begins_then_it_says_how_long_that_took(client: httpx.Client) -> None:
    for response in (client.get("/health"), client.post(CHAT, json=chat_body(stream=True)), client.post(CHAT)):
        assert 0 <= int(response.headers["openai-processing-ms"]) < 5000


@pytest.mark.parametrize("offered", ["abc-123", "A.b_c:d", "x" * 128])
def test_request_id_when_sane_then_it_is_kept(client: httpx.Client, offered: str) -> None:
    assert client.get("/health", headers={"X-Request-Id": offered}).headers["x-request-id"] == offered


@pytest.mark.parametrize("offered", [None, "", "x" * 129, "a b", 'a"b', "\u00e9".encode("latin-1")])
def test_request_id_when_missing_or_odd_then_one_is_made(client: httpx.Client, offered: str | bytes | None) -> None:
    headers = {} if offered is None else {"X-Request-Id": offered}
    made = client.get("/health", headers=headers).headers["x-request-id"]  # type: ignore[arg-type]
    assert re.fullmatch(r"req_[0-9a-f]{32}", made)


def test_log_when_a_request_ends_then_one_line_tells_it(client: httpx.Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="gptoss_adapter"):
        client.post(CHAT, json=chat_body())
        client.get("/v1/nothing")
        # a line is written after its response
        wait_until(lambda: len(caplog.messages) == 2)
    first, second = (TextFormatter().format(one) for one in caplog.records if RequestIdFilter().filter(one))
    assert re.search(
        r" POST /v1/chat/completions 200 duration_ms=[\d.]+ model=gpt-oss-demo profile=balanced outcome=stop"
        r" prompt_tokens=7 cached_tokens=3 queue_ms=0.0 completion_tokens=\d+ ttft_ms=[\d.]+$",
        first,
    )
    assert " GET /v1/nothing 404" in second


# --- the contract's half: errors out of the stubs -------------------------------------------------------------------


@pytest.mark.parametrize("code", list(GenerationErrorCode))
@pytest.mark.parametrize("prefix", ["", "in ensemble 'gpt_oss_20b_chat', ", "in ensemble 'a', in ensemble 'b', "])
def test_error_text_when_it_carries_a_code_then_code_and_sentence_come_back(
    code: GenerationErrorCode, prefix: str
) -> None:
    assert decode_error(prefix + encode_error(code, "so [queue_full] it\nis")) == (code, "so [queue_full] it\nis")


@pytest.mark.parametrize("text", ["", "plain", "[unknown] text", "say [queue_full] now", "[queue_full]"])
def test_error_text_when_it_carries_no_code_then_it_is_the_sentence(text: str) -> None:
    assert decode_error(text) == (None, text)
    assert decode_error(f"in ensemble 'x', {text}") == (None, text)


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
    ],
)
def test_path_when_its_base_url_is_a_little_wrong_then_the_refusal_says_the_right_one(
    client: httpx.Client, sent: str, meant: str
) -> None:
    assert str(fault(client.post(sent, json={}), 404)["message"]).endswith(f"; there is at {meant}.")
