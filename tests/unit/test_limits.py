"""What clients may do to a server: heads, bodies, readers that never read, large schemas, other sites' pages."""

from __future__ import annotations

import itertools
import json
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import httpx
import pytest

from gptoss_adapter.admission import Admission
from gptoss_adapter.app import create_app
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import TooManyRequestsError
from gptoss_backend.settings import MAX_ENTRIES, AdapterSettings
from gptoss_backend.settings_sources import load_settings
from support.fake_adapter import FakeAdapter, adapter_process
from support.fake_model_server import FakeModelServer
from support.live_app import chat_body, live, wait_until

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

# --- connections ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapter() -> Iterator[FakeAdapter]:
    limits = {"MAX_HEADER_BYTES": 2048, "HEADER_TIMEOUT_S": 0.5, "BODY_TIMEOUT_S": 0.5, "WRITE_TIMEOUT_S": 0.5}
    with adapter_process("flood", **{f"ADAPTER__{name}": limit for name, limit in limits.items()}) as adapter:
        yield adapter


def connected(adapter: FakeAdapter, data: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", adapter.port), timeout=5)
    client.sendall(data)
    return client


def read_to_end(client: socket.socket) -> bytes:
    received = b""
    try:
        while part := client.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@pytest.mark.parametrize("head", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\nX-"], ids=["nothing", "half"])
def test_connection_when_a_head_never_ends_then_it_is_closed(adapter: FakeAdapter, head: bytes) -> None:
    with connected(adapter, head) as client:
        begun = time.monotonic()
        assert read_to_end(client) == b""
        assert 0.3 < time.monotonic() - begun < 2.0


def test_connection_when_a_head_comes_byte_by_byte_then_it_is_closed_all_the_same(adapter: FakeAdapter) -> None:
    begun = time.monotonic()
    head = itertools.chain([b"GET / HTTP/1.1\r\nX-"], itertools.repeat(b"x"))
    with connected(adapter) as client, suppress(ConnectionError):
        client.settimeout(0.05)
        is_open = True
        while is_open:
            with suppress(TimeoutError):
                client.sendall(next(head))
                is_open = client.recv(1) != b""
    assert 0.3 < time.monotonic() - begun < 2.0


@pytest.mark.parametrize("ended", [True, False])
def test_connection_when_a_head_is_too_long_then_431_and_it_is_closed(adapter: FakeAdapter, ended: bool) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 4096 + (b"\r\n\r\n" if ended else b"")
    with connected(adapter, head) as client:
        answer = read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "headers_too_large"


def test_connection_when_it_speaks_no_http_then_400_in_openais_shape(adapter: FakeAdapter) -> None:
    with connected(adapter, b"EHLO example.com\r\n\r\n") as client:
        answer = read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "invalid_http"


def test_connection_when_a_body_never_ends_then_408(adapter: FakeAdapter) -> None:
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{{"
    with connected(adapter, head.encode()) as client:
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("endless", [b"X-Field: x\r\n", b"X" * 64], ids=["fields", "one field"])
@pytest.mark.parametrize("path", [CHAT, "/health"])
def test_connection_when_trailers_never_end_then_it_is_closed(adapter: FakeAdapter, endless: bytes, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n"
    num_sent = 0
    with connected(adapter, head.encode()) as client, suppress(ConnectionError):
        while num_sent < 64 * 1024 * 1024:
            client.sendall(endless * 100)
            num_sent += len(endless) * 100
    assert num_sent < 16 * 1024 * 1024  # what fits into both sides' buffers


def test_connection_when_a_refused_body_comes_byte_by_byte_then_it_is_closed(adapter: FakeAdapter) -> None:
    begun = time.monotonic()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n"  # 413, before a byte of it
    with connected(adapter, head.encode()) as client, suppress(ConnectionError):
        client.settimeout(0.05)
        answer, is_open = b"", True
        while is_open:
            with suppress(TimeoutError):
                client.sendall(b" ")
                part = client.recv(65536)
                answer, is_open = answer + part, part != b""
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert time.monotonic() - begun < 3.0


def test_connection_when_a_refused_body_arrives_all_the_same_then_the_connection_stays(adapter: FakeAdapter) -> None:
    too_long = b" " * (8 * 1024 * 1024 + 1)
    with httpx.Client(base_url=adapter.url) as client:
        refused = client.post(CHAT, content=too_long)
    assert refused.status_code == 413
    assert "connection" not in refused.headers


def test_connection_when_only_line_ends_come_after_an_answer_then_it_is_closed(adapter: FakeAdapter) -> None:
    with connected(adapter, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as client, suppress(ConnectionError):
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        begun = time.monotonic()
        client.settimeout(0.1)
        while True:
            client.sendall(b"\r\n")
            with suppress(TimeoutError):
                if client.recv(1) == b"":
                    break
    assert time.monotonic() - begun < 3.0


def test_bodies_when_one_client_has_many_large_ones_arriving_then_429_and_small_ones_pass() -> None:
    size = 1024 * 1024
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    with adapter_process(ADAPTER__MAX_BODY_BYTES=size) as adapter, ExitStack() as stack:
        clients = [stack.enter_context(connected(adapter, head.encode() + b" " * (size - 1))) for _ in range(20)]
        refused, _, _ = select.select(clients, [], [], 5)
        assert 1 <= len(refused) <= 4
        assert all(client.recv(12) == b"HTTP/1.1 429" for client in refused)
        assert httpx.post(f"{adapter.url}{CHAT}", json=chat_body()).status_code == 200


def test_connection_when_it_is_used_again_after_a_while_then_it_works(adapter: FakeAdapter) -> None:
    with httpx.Client(base_url=adapter.url) as client:
        for _ in range(2):
            assert client.get("/health").status_code == 200
            time.sleep(0.7)  # longer than a head may take: nothing has begun


def flooding(adapter: FakeAdapter) -> socket.socket:
    body = json.dumps(chat_body(stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    client.connect(("127.0.0.1", adapter.port))
    client.sendall(head.encode() + body)
    return client


def num_running(adapter: FakeAdapter) -> int:
    count: int = httpx.get(f"{adapter.url}/health").json()["requests_under_way"]
    return count


def test_reader_when_it_never_reads_then_it_is_cut_off_and_its_generation_ends(adapter: FakeAdapter) -> None:
    with flooding(adapter):
        wait_until(lambda: num_running(adapter) == 1)
        assert wait_until(lambda: num_running(adapter) == 0, timeout_s=10) < 8


def test_reader_when_it_reads_slowly_then_it_is_not_cut_off(adapter: FakeAdapter) -> None:
    with flooding(adapter) as client:
        wait_until(lambda: num_running(adapter) == 1)
        for _ in range(15):
            assert client.recv(16384)
            time.sleep(0.1)
        assert num_running(adapter) == 1
    wait_until(lambda: num_running(adapter) == 0)


# --- what a request holds -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture(scope="module")
def client(server: FakeModelServer) -> Iterator[httpx.Client]:
    limits = {"max_tools": 2, "max_schema_bytes": 1024, "max_schema_depth": 6}
    sections = {
        "model": "demo",
        "profile": "balanced",
        "profiles": {"balanced": {"model": "demo", "request_timeout_s": 7.5}},
        "adapter": {**limits, "responses_path": ":memory:", "cors_origins": ["https://chat.example.com"]},
    }
    app = create_app(load_settings(sections, environ={}), model_server=server)
    with live(app) as url, httpx.Client(base_url=url) as client:
        yield client


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"type": "array", "items": schema}
    return schema


LONG = {"type": "string", "description": "x" * 1024}


def function(schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": "f", "parameters": schema}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "function", "function": {"name": f"f{n}"}} for n in range(3)]}, "tools", "offers 3 tools"),
        (
            {"tools": [{"type": "function", "function": function(nested(7))}]},
            "tools[0].function.parameters",
            "nested 7 deep",
        ),
        (
            {"tools": [{"type": "function", "function": function(LONG)}]},
            "tools[0].function.parameters",
            "bytes of JSON",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": nested(7)}}},
            "response_format.json_schema.schema",
            "nested 7 deep",
        ),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_chat_when_a_part_is_too_large_then_400_names_it(
    client: httpx.Client, path: str, fields: dict[str, Any], param: str, words: str
) -> None:
    response = client.post(path, json=chat_body(**fields))
    if path == "/tokenize" and response.json()["error"]["code"] == "unknown_parameter":
        pytest.skip("/tokenize does not take this field")
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert words in error["message"]


def test_chat_when_a_part_is_as_large_as_may_be_then_it_is_answered(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"x": nested(4)}}
    tools = [{"type": "function", "function": {"name": f"f{n}", "parameters": schema}} for n in range(2)]
    assert client.post(CHAT, json=chat_body(tools=tools)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "name": f"f{n}"} for n in range(3)]}, "tools"),
        ({"tools": [{"type": "function", **function(nested(7))}]}, "tools[0].parameters"),
        (
            {"text": {"format": {"type": "json_schema", "name": "f", "schema": nested(7)}}},
            "text.format.schema",
        ),
    ],
)
def test_response_when_a_part_is_too_large_then_400_names_it(
    client: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    response = client.post(RESPONSES, json={"model": "gpt-oss", "input": "Hi", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_chat_when_all_copies_would_carry_too_much_then_400(client: httpx.Client, server: FakeModelServer) -> None:
    server.forget()
    biases = {str(at): 1.0 for at in range(1000)}
    tools = [{"type": "function", "function": {"name": "f", "description": "x" * 200_000}}]
    response = client.post(CHAT, json=chat_body(n=128, logit_bias=biases, tools=tools))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert server.samplings == []


def test_chat_when_it_allows_a_thousand_tools_then_each_is_looked_up_once(client: httpx.Client) -> None:
    named = [{"type": "function", "function": {"name": "f"}}]
    tools = [{"type": "function", "function": {"name": "f"}}]
    for num, status in ((1024, 200), (1025, 400)):
        choice = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": named * num}}
        assert client.post(CHAT, json=chat_body(tools=tools, tool_choice=choice)).status_code == status


MANY = "[" + "{}," * 60_000 + "1]"
HARMLESS = [
    (CHAT, '{"model":"gpt-oss","messages":[{"role":"user","content":"Hi"}],"prompt_cache_options":%s}'),
    (CHAT, '{"model":"gpt-oss","messages":[{"role":"assistant","content":"Hi","parsed":%s}]}'),
    (
        RESPONSES,
        '{"model":"gpt-oss","store":false,"input":[{"role":"user","content":'
        '[{"type":"input_text","text":"Hi","annotations":%s,"logprobs":%s}]}]}',
    ),
]


PART = '{"type":"text","text":"a"}'
MESSAGE = '{"role":"user","content":[%s]}'
LONG_LISTS = [
    (CHAT, '{"model":"gpt-oss","messages":[%s]}', '{"role":"user","content":"a"}', "messages"),
    (CHAT, '{"model":"gpt-oss","messages":[{"role":"user","content":[%s]}]}', PART, "messages[0].content"),
    (RESPONSES, '{"model":"gpt-oss","input":"a","tools":[%s]}', '{"type":"function","name":"a"}', "tools"),
]


@pytest.mark.parametrize(("path", "body", "entry", "param"), LONG_LISTS)
def test_body_when_a_list_is_longer_than_any_setting_allows_then_it_is_refused_unread(
    client: httpx.Client, path: str, body: str, entry: str, param: str
) -> None:
    entries = ",".join([entry] * (MAX_ENTRIES + 1))
    refused = client.post(path, content=body % entries, headers={"content-type": "application/json"})
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert "list should have at most 16384 entries" in error["message"]


@pytest.mark.parametrize(("path", "body"), HARMLESS)
def test_body_when_a_harmless_field_is_large_then_it_is_dropped_unread(
    client: httpx.Client, path: str, body: str
) -> None:
    json_type = {"content-type": "application/json"}
    response = client.post(path, content=body.replace("%s", MANY), headers=json_type)
    assert response.status_code == 200, response.text
    refused = client.post(path, content=body.replace("%s", "[" + "{}," * 500_000 + "1]"), headers=json_type)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
    assert "opening brackets" in refused.json()["error"]["message"]


MESSAGES = "/v1/messages"
ANTHROPIC = '{"model":"gpt-oss","max_tokens":9,"messages":[%s]}'
USED = '{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{"x":[%s]}}]}'
DEAR = [
    (CHAT, '{"model":"gpt-oss","messages":[%s]}', MESSAGE % ",".join([PART] * 5000), 10, "messages"),
    (RESPONSES, '{"model":"gpt-oss","input":[%s]}', MESSAGE % ",".join([PART] * 5000), 10, "input"),
    (MESSAGES, ANTHROPIC, USED % ",".join(["1"] * 400_000), 4, None),
    ("/v1/completions", '{"model":"gpt-oss","prompt":[%s]}', "1", 1_300_000, "prompt"),
]


@pytest.mark.parametrize(("path", "body", "entry", "num", "param"), DEAR)
def test_body_when_it_is_made_of_too_many_parts_then_it_is_refused_unread(
    client: httpx.Client, path: str, body: str, entry: str, num: int, param: str | None
) -> None:
    json_type = {"content-type": "application/json"}
    refused = client.post(path, content=body % ",".join([entry] * num), headers=json_type)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert "more than 150000 objects, lists and fields" in error["message"]
    assert error.get("param") == param


def test_body_when_a_session_is_long_then_it_is_read(client: httpx.Client) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    code = "if (a[0]) { b({c: [d]}); } " * 30
    turn = [
        {"role": "assistant", "content": [{"type": "text", "text": code}], "tool_calls": [call, {**call, "id": "b"}]},
        {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": code}] * 3},
        {"role": "tool", "tool_call_id": "b", "content": code},
    ]
    messages = [{"role": "user", "content": "Hi"}, *turn * 682]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"p": {"enum": ["a"] * 99}}}}}]
    assert client.post(CHAT, json=chat_body(messages=messages, tools=tools)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat_body()),
        ("/v1/completions", {"model": "gpt-oss", "prompt": "Hi"}),
        (RESPONSES, {"model": "gpt-oss", "input": "Hi"}),
    ],
)
def test_generation_when_the_profile_has_a_deadline_then_the_engine_is_told(
    client: httpx.Client, server: FakeModelServer, path: str, body: dict[str, Any]
) -> None:
    server.forget()
    assert client.post(path, json=body).status_code == 200
    assert [sampling.timeout_s for sampling in server.samplings] == [7.5]


# --- when to come back ----------------------------------------------------------------------------------------------


def test_retry_after_when_the_queue_is_full_then_it_is_when_the_next_answer_is_likely_to_end(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [TooManyRequestsError("Full.")]
    try:
        response = client.post(CHAT, json=chat_body())
    finally:
        server.forget()
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


def test_retry_after_when_tokens_are_counted_then_that_is_no_answer_that_took_time(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[float] = []
    monkeypatch.setattr(Admission, "note_duration", lambda admission, duration_s: noted.append(duration_s))
    client.post("/tokenize", json={"prompt": "Hi"})
    client.post(CHAT, json=chat_body())
    wait_until(lambda: bool(noted))
    assert len(noted) == 1


@pytest.mark.parametrize(("durations_s", "num", "told_s"), [([], 4, 1), ([30.0] * 3 + [500.0], 4, 8), ([900.0], 1, 60)])
def test_retry_after_when_answers_take_long_then_it_says_so(durations_s: list[float], num: int, told_s: int) -> None:
    admission = Admission(AdapterSettings(), None, Drain())
    for duration_s in durations_s:
        admission.note_duration(duration_s)
    assert admission.retry_after_s(num) == told_s


# --- pages of other sites -------------------------------------------------------------------------------------------


def test_cors_when_a_known_page_asks_then_its_browser_may_send_and_read_errors_too(client: httpx.Client) -> None:
    origin = {"Origin": "https://chat.example.com"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    preflight = client.options(CHAT, headers={**origin, **asked})
    refused = client.post(CHAT, json={}, headers=origin)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (400, origin["Origin"])
    assert "x-request-id" in refused.headers["access-control-expose-headers"]


def test_cors_when_another_page_asks_then_its_browser_is_told_nothing(client: httpx.Client) -> None:
    response = client.get("/v1/models", headers={"Origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in response.headers


HOSTS = [
    ("localhost:8000", 200),
    ("127.0.0.1", 200),
    ("[::1]:8000", 200),
    ("chat.localhost", 200),
    ("adapter", 200),
    ("host.docker.internal:8000", 200),
    ("internal.example.com", 400),
    ("proxy.example.com", 200),
    ("Proxy.Example.com.:80", 200),
    ("evil.example.com", 400),
    ("127.0.0.1.evil.example.com:8000", 400),
]


@pytest.mark.parametrize(("name", "status"), HOSTS)
def test_host_when_nobody_is_asked_for_a_key_then_names_of_other_sites_are_refused(name: str, status: int) -> None:
    settings = load_settings({"model": "demo", "adapter": {"allowed_hosts": ["proxy.example.com"]}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        assert httpx.get(f"{url}/v1/models", headers={"Host": name}).status_code == status


@pytest.mark.parametrize(("name", "status"), HOSTS)
def test_host_when_others_reach_the_server_and_its_names_are_said_then_other_names_are_refused(
    name: str, status: int
) -> None:
    sections = {"server": {"host": "0.0.0.0"}, "adapter": {"allowed_hosts": ["proxy.example.com"]}}
    settings = load_settings({"model": "demo", **sections}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        assert httpx.get(f"{url}/v1/models", headers={"Host": name}).status_code == status


def test_host_when_all_names_are_allowed_then_any_is_taken() -> None:
    settings = load_settings({"model": "demo", "adapter": {"allowed_hosts": ["*"]}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        assert httpx.get(f"{url}/v1/models", headers={"Host": "chat.example.com"}).status_code == 200


def test_host_when_others_reach_the_server_then_any_name_is_taken() -> None:
    settings = load_settings({"model": "demo", "server": {"host": "0.0.0.0"}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        assert httpx.get(f"{url}/v1/models", headers={"Host": "chat.example.com"}).status_code == 200
