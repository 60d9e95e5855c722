"""`gptoss_client.Client` and `AsyncClient` against a real adapter and a gRPC server that speaks Triton's protocol."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import grpc
import httpx
import pytest
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gptoss_adapter.app import create_app
from gptoss_adapter.inference import ModelServerStatus
from gptoss_adapter.schemas.model_answers import ModelCard
from gptoss_adapter.schemas.stats import StatsReport
from gptoss_backend.contract import (
    CHAT_CODEC,
    EVENT_CODEC,
    BuiltinName,
    BuiltinTool,
    CallSyntax,
    ChatMessage,
    ChatRequest,
    CustomTool,
    Finished,
    FinishReason,
    FunctionTool,
    GenerationErrorCode,
    Role,
    Started,
    Timings,
    encode_error,
)
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.settings_sources import load_settings
from gptoss_client import Answer, AsyncClient, Client, ClientError, ProtocolError, ServerError, UnreachableError
from gptoss_client.answer import AnswerPart, Content, Ended, Reasoning, Usage
from gptoss_client.keys import add_key
from gptoss_client.process_group import ProcessRecord
from gptoss_client.queries import http_options
from gptoss_client.reports import Model, Profile, Stats
from gptoss_client.run_state import Phase, RunDirectory, RunState
from gptoss_client.server_address import running_server
from support.fake_model_server import FakeModelServer, token_ids
from support.live_app import live
from support.ports import free_port

SETTINGS = load_settings({"model": "demo"}, environ={})
CHAT = ChatRequest(messages=(ChatMessage(Role.USER, "Hi"),))
HELLO = "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city":"Oslo"}<|call|>'
TIMINGS = Timings(0.0, 0.1, 0.2)


@pytest.fixture
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture
def url(server: FakeModelServer) -> Iterator[str]:
    with live(create_app(SETTINGS, model_server=server)) as url:
        yield url


# --- over HTTP --------------------------------------------------------------------------------------------------------


def test_models_when_asked_then_the_names_and_the_profile_in_force_come_typed(url: str) -> None:
    with Client(f"{url}/v1") as client:
        models, profiles = client.models(), client.profiles()
    assert [model.id for model in models] == ["gpt-oss-demo", "gpt-oss"]
    assert isinstance(models[0], Model)
    assert models[1].root == "gpt-oss-demo"
    assert profiles == (Profile("balanced", "gpt-oss-demo", is_default=True),)


def test_health_when_a_model_is_missing_then_it_is_a_result_and_no_error(url: str, server: FakeModelServer) -> None:
    with Client(url) as client:
        assert client.health().is_ready
        server.status_now = ModelServerStatus(live=True, version="2.51.0", missing_models=("gpt_oss_demo",))
        health = client.health()
    assert not health.is_ready
    assert health.triton.missing == ("gpt_oss_demo",)
    assert [one.ready for one in health.models] == [False]


def test_async_client_when_asked_then_it_gives_what_the_blocking_one_gives(url: str) -> None:
    async def ask() -> tuple[Any, ...]:
        async with AsyncClient(url) as client:
            return await client.models(), await client.profiles(), (await client.health()).models, await client.stats()

    models, profiles, served, stats = asyncio.run(ask())
    with Client(url) as client:
        assert (models, profiles, served) == (client.models(), client.profiles(), client.health().models)
        assert stats.served == client.stats().served


@pytest.mark.parametrize(("ours", "theirs"), [(Stats, StatsReport), (Model, ModelCard)])
def test_reports_when_the_server_tells_something_then_the_client_has_a_field_for_it(ours: type, theirs: type) -> None:
    assert _leaves(theirs) - {"object"} == _leaves(ours)


def _leaves(kind: object) -> set[str]:
    """Return the dotted names of all that a document of this type tells."""
    if get_origin(kind) is not None or isinstance(kind, UnionType):
        return set().union(*(_leaves(part) for part in get_args(kind)))
    if is_dataclass(kind):
        names = [field.name for field in fields(kind)]
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        names = list(kind.model_fields)
    else:
        return set()
    hints = get_type_hints(kind)
    return set(names) | {f"{name}.{leaf}" for name in names for leaf in _leaves(hints[name])}


def test_client_when_nobody_listens_then_it_says_where() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with Client(address) as client, pytest.raises(UnreachableError, match=address):
        client.health()


def test_client_when_another_kind_of_server_answers_then_it_says_so() -> None:
    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            status = 404 if scope["path"] == "/stats" else 200
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b'{"hello": 1}'})

    with live(other) as url, Client(url) as client:
        with pytest.raises(ProtocolError, match="data"):
            client.models()
        with pytest.raises(ServerError, match="404") as refused:
            client.stats()
    assert refused.value.status == 404


def test_client_when_a_key_is_asked_for_then_the_servers_sentence_and_code_come(tmp_path: Path) -> None:
    keys = tmp_path / "keys.yaml"
    key = add_key(keys, "ada", None)
    settings = load_settings({"model": "demo", "adapter": {"keys_path": keys}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        with Client(url, "wrong") as client, pytest.raises(ServerError) as refused:
            client.models()
        with Client(url, key) as client:
            assert client.models()
        answer = httpx.get(f"{url}/v1/models", headers={"Authorization": "Bearer wrong"})
    assert str(refused.value) == answer.json()["error"]["message"]
    assert refused.value.code == answer.json()["error"]["code"]
    assert refused.value.status == 401


@pytest.mark.parametrize("base_url", ["localhost:8000", "ftp://host", "http://", ""])
def test_client_when_the_url_is_none_then_it_says_what_one_is(base_url: str) -> None:
    with pytest.raises(ClientError, match="http://"):
        Client(base_url)


def test_client_when_its_own_server_has_an_address_of_the_network_then_no_proxy_stands_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(load_settings({"server": {"host": "192.0.2.7"}}, environ={}))
    run.write_state(RunState(Phase.READY, ProcessRecord.of("supervisor", os.getpid()), 0.0, ""))
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    server = running_server(run, None)
    own = http_options(server.url, None, 1.0, trust_env=server.trust_env)
    assert (server.url, own["trust_env"]) == ("http://192.0.2.7:8000", False)
    assert http_options("http://192.0.2.7:8000", None, 1.0)["trust_env"]


@pytest.mark.parametrize(
    ("base_url", "address"),
    [("http://host:9000/v1", "host:9001"), ("https://host", "host:444"), ("http://[::1]:8000", "[::1]:8001")],
)
def test_client_when_triton_is_not_named_then_it_is_on_the_port_after(base_url: str, address: str) -> None:
    with Client(base_url) as client:
        assert client.triton == address


def test_package_when_imported_then_it_loads_no_client() -> None:
    code = "import sys, gptoss_client; print('httpx' in sys.modules, 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False False\n"


# --- straight with Triton ---------------------------------------------------------------------------------------------


def step(harmony: str, event: Started | Finished | None = None) -> pb.ModelStreamInferResponse:
    ids = token_ids(harmony)
    raw = (struct.pack(f"<{len(ids)}i", *ids), harmony.encode(), EVENT_CODEC.encode(event) if event else b"")
    outputs = [pb.ModelInferResponse.InferOutputTensor(name=name) for name in ("TOKEN_IDS", "TEXT", "EVENT")]
    return pb.ModelStreamInferResponse(infer_response=pb.ModelInferResponse(outputs=outputs, raw_output_contents=raw))


def whole(harmony: str) -> list[pb.ModelStreamInferResponse]:
    return [step("", Started(7, 3)), step(harmony), step("", Finished(FinishReason.STOP, 7, 9, 3, TIMINGS))]


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Streams `responses` to every request, then ends the call with `abort` where there is one."""

    def __init__(self, responses: list[pb.ModelStreamInferResponse]) -> None:
        self.responses = responses
        self.abort: tuple[grpc.StatusCode, str] | None = None
        self.requests: list[Any] = []

    def ModelStreamInfer(  # noqa: N802
        self, requests: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        self.requests += requests
        yield from self.responses
        if self.abort:
            context.abort(*self.abort)


@contextmanager
def serving(triton: FakeTriton) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(triton, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def blocking(address: str, model: str, chat: ChatRequest) -> list[AnswerPart]:
    with Client(triton=address) as client:
        return list(client.generate(model, chat))


def with_asyncio(address: str, model: str, chat: ChatRequest) -> list[AnswerPart]:
    async def gather() -> list[AnswerPart]:
        async with AsyncClient(triton=address) as client:
            return [part async for part in client.generate(model, chat)]

    return asyncio.run(gather())


Generate = Callable[[str, str, ChatRequest], list[AnswerPart]]
both = pytest.mark.parametrize("generate", [blocking, with_asyncio])


@both
def test_generate_when_triton_answers_then_typed_parts_come_in_order(generate: Generate) -> None:
    triton = FakeTriton(whole(HELLO))
    with serving(triton) as address:
        parts = generate(address, "gpt-oss-demo", CHAT)
    assert parts == [Reasoning("Easy."), Content("Hello!"), Ended("stop", Usage(7, 9, 3), TIMINGS)]
    assert triton.requests[0].model_name == "gpt_oss_demo_chat"
    assert CHAT_CODEC.decode(triton.requests[0].raw_input_contents[0]) == CHAT


@both
def test_generate_when_a_begun_answer_goes_on_then_its_first_part_is_what_it_goes_on_with(generate: Generate) -> None:
    begun = ChatMessage(Role.ASSISTANT, reasoning="Ea")
    chat = ChatRequest(messages=(*CHAT.messages, begun), continues_last=True)
    with serving(
        FakeTriton(whole("sy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"))
    ) as address:
        parts = generate(address, "demo", chat)
    assert parts[:-1] == [Reasoning("sy."), Content("Hello!")]


def test_generate_when_a_users_message_is_to_go_on_then_it_is_refused_before_it_is_sent() -> None:
    with Client() as client, pytest.raises(ClientError, match="only an assistant message can be continued"):
        client.generate("demo", replace(CHAT, continues_last=True))


@both
def test_generate_when_the_model_calls_a_tool_then_the_answer_holds_the_whole_call(generate: Generate) -> None:
    chat = ChatRequest(messages=CHAT.messages, tools=(FunctionTool("weather"),))
    with serving(FakeTriton(whole(CALL))) as address:
        answer = Answer.of(generate(address, "demo", chat))
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("weather", '{"city":"Oslo"}')]
    assert answer.tool_calls[0].id.startswith("call_")
    assert answer.ended is not None
    assert answer.ended.finish_reason == "tool_calls"


@both
def test_generate_when_the_model_calls_a_custom_tool_then_the_answer_holds_its_input(generate: Generate) -> None:
    chat = ChatRequest(messages=CHAT.messages, tools=(CustomTool("note"),))
    note = '<|channel|>commentary to=functions.note <|constrain|>json<|message|>{"input":"two words"}<|call|>'
    with serving(FakeTriton(whole(note))) as address:
        [call] = Answer.of(generate(address, "demo", chat)).tool_calls
    assert (call.name, call.arguments, call.syntax) == ("note", "two words", CallSyntax.QUOTED)


@both
def test_generate_when_the_model_calls_a_builtin_tool_then_the_call_can_be_sent_back(generate: Generate) -> None:
    chat = ChatRequest(messages=CHAT.messages, builtin_tools=(BuiltinTool(BuiltinName.PYTHON),))
    code = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    with serving(FakeTriton(whole(code))) as address:
        [call] = Answer.of(generate(address, "demo", chat)).tool_calls
    turns = (ChatMessage(Role.ASSISTANT, tool_calls=(call,)), ChatMessage(Role.TOOL, "1", tool_call_id=call.id))
    assert code in encoding().decode(render_prompt(replace(chat, messages=(*chat.messages, *turns))))


@both
def test_generate_when_triton_refuses_then_the_sentence_and_the_code_come(generate: Generate) -> None:
    text = "in ensemble 'gpt_oss_demo_chat', " + encode_error(GenerationErrorCode.QUEUE_FULL, "As many wait as may.")
    triton = FakeTriton([pb.ModelStreamInferResponse(error_message=text)])
    with serving(triton) as address, pytest.raises(ServerError, match=r"^As many wait as may\.$") as refused:
        generate(address, "demo", CHAT)
    assert refused.value.code == "queue_full"


@both
def test_generate_when_the_stream_is_cut_then_it_is_no_answer(generate: Generate) -> None:
    with serving(FakeTriton(whole(HELLO)[:-1])) as address, pytest.raises(ProtocolError, match="last event"):
        generate(address, "demo", CHAT)


@both
def test_generate_when_the_call_breaks_then_its_kind_is_told(generate: Generate) -> None:
    triton = FakeTriton([])
    with serving(triton) as address:
        triton.abort = (grpc.StatusCode.UNAVAILABLE, "gone")
        with pytest.raises(UnreachableError, match="gone"):
            generate(address, "demo", CHAT)
        triton.abort = (grpc.StatusCode.INTERNAL, "boom")
        with pytest.raises(ServerError, match="boom"):
            generate(address, "demo", CHAT)


def test_generate_when_the_model_is_unknown_then_the_known_ones_are_named() -> None:
    with Client() as client, pytest.raises(ClientError, match="gpt-oss-20b"):
        client.generate("gpt-5", CHAT)
