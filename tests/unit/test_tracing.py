"""OpenTelemetry traces, as a collector receives them over a socket; and that none costs nothing."""

from __future__ import annotations

import http.server
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError
from gptoss_backend.contract import Finished, Timings
from gptoss_backend.environment import OTLP_ENV
from gptoss_backend.settings import SettingsError
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FOREVER, HELLO, PROMPT_TOKENS, FakeModelServer, Pause, Scene, answer
from support.live_app import chat_body, live, wait_until
from support.mcp_server import Seen, mcp_server

TIMINGS = Timings(queue_s=0.010, first_token_s=0.030, total_s=0.060)
TRACE_ID, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def timed(scenes: list[Scene]) -> list[Scene]:
    """Return the script, its last event with the engine's timings."""
    last = scenes[-1]
    assert not isinstance(last, (Pause, Exception))
    assert isinstance(last.event, Finished)
    return [*scenes[:-1], changed(last, event=changed(last.event, timings=TIMINGS))]


@dataclass
class Collector:
    """What an OTLP collector received."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    resource: dict[str, Any] = field(default_factory=dict)

    def receive(self, path: str, body: bytes) -> None:
        self.paths.append(path)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = attributes(group.resource)
            self.spans += [span for scope in group.scope_spans for span in scope.spans]

    @property
    def roots(self) -> list[Span]:
        ids = {span.span_id for span in self.spans}
        return [span for span in self.spans if span.parent_span_id not in ids]

    @property
    def root(self) -> Span:
        (root,) = self.roots
        return root

    def children(self) -> list[Span]:
        inner = [span for span in self.spans if span.parent_span_id == self.root.span_id]
        return sorted(inner, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


def attributes(holder: Any) -> dict[str, Any]:  # noqa: ANN401 (any message with attributes)
    def plain(value: Any) -> Any:  # noqa: ANN401
        kind = value.WhichOneof("value")
        return [plain(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)

    return {pair.key: plain(pair.value) for pair in holder.attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    received = Collector()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.receive(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        received.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()


def traced(server: FakeModelServer, ask: Callable[[httpx.Client], object], **adapter: object) -> Collector:
    """Ask an app that plays `server`; returns what its collector has once the app has ended."""
    with collector() as received:
        sections = {"model": "demo", "adapter": {"otlp_endpoint": received.url, **adapter}}
        settings = load_settings(sections, environ={})
        with live(create_app(settings, model_server=server)) as url, httpx.Client(base_url=url) as client:
            ask(client)
    return received


def chat(**fields: object) -> Callable[[httpx.Client], httpx.Response]:
    return lambda client: client.post("/v1/chat/completions", json=chat_body(**fields))


def milliseconds(span: Span) -> float:
    return (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6


# --- one request ----------------------------------------------------------------------------------------------------


def test_trace_when_an_mcp_server_runs_a_tool_then_the_call_has_a_span_between_the_turns(tmp_path: Path) -> None:
    call = '<|channel|>commentary to=functions.docs__search <|constrain|>json<|message|>{"query":"a secret"}<|call|>'

    def ask(client: httpx.Client) -> None:
        tool = {"type": "mcp", "server_label": "docs", "require_approval": "never"}
        client.post("/v1/responses", json={"model": "gpt-oss-demo", "input": "Hi", "tools": [tool]})

    server = FakeModelServer(timed([*HELLO]), scripts=[timed(answer(call))])
    with mcp_server(Seen()) as url:
        received = traced(server, ask, responses_path=str(tmp_path / "r.sqlite"), mcp_servers={"docs": url})
    phases = ["preprocess", "queue", "prefill", "decode"]
    assert sorted(span.name for span in received.children()) == sorted([*phases, "execute_tool", *phases])
    [tool] = [span for span in received.children() if span.name == "execute_tool"]
    assert attributes(tool) == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "search",
        "gptoss.mcp_server": "docs",
    }
    told = attributes(received.root)
    assert "gen_ai.request.choice.count" not in told
    assert told["gen_ai.response.finish_reasons"] == ["stop", "stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_trace_when_a_response_is_made_in_the_background_then_its_span_ends_with_it(
    tmp_path: Path, stream: bool
) -> None:
    def ask(client: httpx.Client) -> None:
        body = {"model": "gpt-oss-demo", "input": "Hi", "background": True, "stream": stream}
        client.post("/v1/responses", json=body)
        wait_until(lambda: bool(server.streams) and server.streams[0].cancelled)

    server = FakeModelServer(timed([HELLO[0], Pause(0.1), *HELLO[1:]]))
    received = traced(server, ask, responses_path=str(tmp_path / "r.sqlite"))
    told = attributes(received.root)
    assert told["gen_ai.usage.output_tokens"] == len(HELLO) - 1
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert milliseconds(received.root) > 100
    assert [span.name for span in received.children()] == ["preprocess", "queue", "prefill", "decode"]


def test_trace_when_a_chat_is_answered_then_its_span_tells_what_the_conventions_name() -> None:
    server = FakeModelServer(timed(HELLO))
    received = traced(server, chat(temperature=0.5, max_tokens=99, seed=7))
    assert set(received.paths) == {"/v1/traces"}
    assert received.resource["service.name"] == "gptoss"
    span, told = received.root, attributes(received.root)
    assert (span.name, span.kind) == ("chat gpt-oss-demo", Span.SPAN_KIND_SERVER)
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == told["gen_ai.response.model"] == "gpt-oss-demo"
    assert told["gptoss.profile"] == "balanced"
    assert (told["gen_ai.request.temperature"], told["gen_ai.request.max_tokens"]) == (0.5, 99)
    assert told["gen_ai.request.seed"] == 7
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.cache_read.input_tokens"]) == (7, 3)
    assert told["gen_ai.usage.output_tokens"] == len(HELLO) - 1
    assert told["gen_ai.response.finish_reasons"] == ["stop"]
    assert told["gen_ai.response.time_to_first_chunk"] > 0
    assert told["http.response.status_code"] == 200
    assert told["gptoss.request_id"] == server.request_ids[0]
    assert span.status.code == Status.STATUS_CODE_UNSET


@pytest.mark.parametrize("stream", [False, True])
def test_trace_when_a_chat_is_answered_then_its_phases_are_as_long_as_the_engine_says(stream: bool) -> None:
    received = traced(FakeModelServer(timed(HELLO)), chat(stream=stream))
    preprocess, queue, prefill, decode = received.children()
    assert [preprocess.name, queue.name, prefill.name, decode.name] == ["preprocess", "queue", "prefill", "decode"]
    assert [milliseconds(span) for span in (queue, prefill, decode)] == pytest.approx([10, 20, 30], abs=0.001)
    assert preprocess.end_time_unix_nano <= queue.start_time_unix_nano
    assert queue.end_time_unix_nano == prefill.start_time_unix_nano
    assert prefill.end_time_unix_nano == decode.start_time_unix_nano


def test_trace_when_the_client_names_one_then_the_request_is_part_of_it() -> None:
    header = {"traceparent": f"00-{TRACE_ID}-{CLIENT_SPAN}-01"}
    received = traced(
        FakeModelServer(), lambda client: client.post("/v1/chat/completions", json=chat_body(), headers=header)
    )
    assert received.root.parent_span_id.hex() == CLIENT_SPAN
    assert {span.trace_id.hex() for span in received.spans} == {TRACE_ID}


def test_trace_when_the_client_does_not_record_its_own_then_neither_do_we() -> None:
    header = {"traceparent": f"00-{TRACE_ID}-{CLIENT_SPAN}-00"}
    received = traced(
        FakeModelServer(), lambda client: client.post("/v1/chat/completions", json=chat_body(), headers=header)
    )
    assert received.spans == []


def test_trace_when_the_clients_header_is_broken_then_a_new_one_begins() -> None:
    received = traced(
        FakeModelServer(),
        lambda client: client.post("/v1/chat/completions", json=chat_body(), headers={"traceparent": "00-zz"}),
    )
    assert received.root.parent_span_id == b""


def test_trace_when_two_answers_are_asked_for_then_one_span_holds_both_and_the_prompt_counts_once() -> None:
    received = traced(FakeModelServer(timed(HELLO)), chat(n=2))
    told = attributes(received.root)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (7, 2 * (len(HELLO) - 1))
    assert told["gen_ai.request.choice.count"] == 2
    assert told["gen_ai.response.finish_reasons"] == ["stop", "stop"]
    names = [span.name for span in received.children()]
    assert sorted(names) == ["decode", "decode", "prefill", "prefill", "preprocess", "queue", "queue"]
    assert {attributes(span).get("gptoss.choice") for span in received.children()} == {None, 0, 1}


def test_trace_when_one_answer_goes_on_then_it_is_one() -> None:
    called = "<|channel|>commentary to=nobody<|message|>{}<|call|>"
    received = traced(FakeModelServer(scripts=[timed(answer(called)), timed(HELLO)]), chat())
    assert "gen_ai.request.choice.count" not in attributes(received.root)
    assert attributes(received.root)["gen_ai.usage.input_tokens"] == 2 * PROMPT_TOKENS


@pytest.mark.parametrize(
    ("path", "body", "operation"),
    [
        ("/v1/completions", {"model": "gpt-oss-demo", "prompt": "Hi"}, "text_completion"),
        ("/v1/responses", {"model": "gpt-oss-demo", "input": "Hi", "store": False}, "chat"),
        ("/v1/responses/compact", {"model": "gpt-oss-demo", "input": "Hi"}, "chat"),
    ],
)
def test_trace_when_another_route_generates_then_it_has_its_span(path: str, body: object, operation: str) -> None:
    received = traced(FakeModelServer(), lambda client: client.post(path, json=body).raise_for_status())
    assert received.root.name == f"{operation} gpt-oss-demo"
    assert attributes(received.root)["gen_ai.usage.input_tokens"] == 7


def test_trace_when_nothing_is_generated_then_there_is_none() -> None:
    def ask(client: httpx.Client) -> None:
        for path in ("/health", "/metrics", "/stats", "/v1/models"):
            client.get(path).raise_for_status()
        client.post("/tokenize", json=chat_body()).raise_for_status()

    assert traced(FakeModelServer(), ask).spans == []


# --- requests that end otherwise ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (ServiceUnavailableError("Away."), "503", Status.STATUS_CODE_ERROR),
        (InvalidRequestError("Wrong.", param="messages"), "400", Status.STATUS_CODE_UNSET),
    ],
)
def test_trace_when_a_request_is_not_answered_then_its_span_says_why(error: Exception, kind: str, status: int) -> None:
    received = traced(FakeModelServer(preprocess_error=error), chat())
    assert attributes(received.root)["error.type"] == kind
    assert received.root.status.code == status
    assert [span.name for span in received.children()] == ["preprocess"]


def test_trace_when_a_stream_breaks_then_its_span_is_an_error_and_shows_how_far_it_came() -> None:
    received = traced(FakeModelServer([*HELLO[:4], ServiceUnavailableError("Away.")]), chat(stream=True))
    assert received.root.status.code == Status.STATUS_CODE_ERROR
    assert attributes(received.root)["error.type"] == "service_unavailable"
    assert [span.name for span in received.children()] == ["preprocess", "queue", "prefill", "decode"]
    assert attributes(received.root)["gen_ai.usage.output_tokens"] == 3


def test_trace_when_the_client_leaves_then_the_span_ends_with_what_was_done() -> None:
    server = FakeModelServer([*HELLO[:4], FOREVER])

    def leave(client: httpx.Client) -> None:
        with client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True)) as response:
            next(response.iter_raw())
        wait_until(lambda: server.streams[0].abandoned)

    received = traced(server, leave)
    assert [span.name for span in received.children()] == ["preprocess", "queue", "prefill", "decode"]


# --- the collector --------------------------------------------------------------------------------------------------


def test_collector_when_away_then_answers_come_as_ever_and_the_log_has_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with collector() as gone:
        pass
    settings = load_settings({"model": "demo", "adapter": {"otlp_endpoint": gone.url}}, environ={})
    with caplog.at_level(logging.INFO), live(create_app(settings, model_server=FakeModelServer())) as url:
        for _ in range(5):
            assert httpx.post(f"{url}/v1/chat/completions", json=chat_body()).status_code == 200
        ending = time.perf_counter()
    assert time.perf_counter() - ending < 5, "the end does not wait for the collector"
    wait_until(lambda: any("trace collector" in line for line in caplog.messages), timeout_s=15)
    assert len([record for record in caplog.records if "opentelemetry" in record.name]) == 0
    assert len([line for line in caplog.messages if "trace collector" in line]) == 1


def test_extras_when_off_then_nothing_of_them_is_imported() -> None:
    code = (
        "import sys\n"
        "from gptoss_adapter.app import create_app\n"
        "from gptoss_backend.settings_sources import load_settings\n"
        "create_app(load_settings({'model': 'demo'}, environ={}))\n"
        "of_extras = ('opentelemetry.sdk', 'opentelemetry.exporter', 'mcp.', 'mcp_types', 'httpx2')\n"
        "print([name for name in sys.modules if name.startswith(of_extras)])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("[]", "")


def test_tracing_when_its_packages_are_missing_then_a_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gptoss_adapter.tracing", None)  # type: ignore[arg-type]
    settings = load_settings({"model": "demo", "adapter": {"otlp_endpoint": "http://127.0.0.1:4318"}}, environ={})
    with pytest.raises(SettingsError, match=r"pip install 'gptoss-triton\[tracing\]'"):
        create_app(settings)


def test_endpoint_when_opentelemetrys_variable_names_it_then_ours_still_wins() -> None:
    standard = {OTLP_ENV: "http://one:4318"}
    assert load_settings(environ=standard).adapter.otlp_endpoint == "http://one:4318"
    ours = {"GPTOSS_ADAPTER__OTLP_ENDPOINT": "http://two:4318"}
    assert load_settings(environ=ours | standard).adapter.otlp_endpoint == "http://two:4318"
    with pytest.raises(SettingsError, match=r"adapter\.otlp_endpoint"):
        load_settings(environ={OTLP_ENV: "collector:4318"})
