"""One chat straight with Triton: the request for the ensemble preprocess → generation, and how its stream is read.

Stage: 3 prompt … 6 split channels, without the adapter; the part that the blocking and the asyncio client share.
Owns: the gRPC message, the order of the parts, what Triton's errors mean to the caller.
Does not know: channels, sockets, threads.
"""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Iterator, Mapping
from typing import Any, Final

import grpc
from tritonclient.grpc import service_pb2

from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    EVENT,
    EVENT_CODEC,
    TOKEN_IDS,
    ChatRequest,
    ContractError,
    Finished,
    decode_error,
)
from gptoss_backend.harmony.begun import begun_of
from gptoss_backend.harmony.builtin_tools import offered_builtins, recipients
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.tools_section import offered_tools
from gptoss_backend.model_names import MODELS
from gptoss_client.answer import AnswerPart, CallPart, Content, Ended, Reasoning, Usage
from gptoss_client.api_errors import ClientError, ProtocolError, ServerError, UnreachableError

CHANNEL_OPTIONS: Final = (("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0))
_UNREACHABLE: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class EnsembleChat:
    """One chat: the request to send, and the reader of its responses."""

    def __init__(self, model: str, chat: ChatRequest) -> None:
        """model: by any of its names. Raises ClientError for an unknown one, and for a message that cannot go on."""
        self.request = ensemble_request(_ensemble_of(model), CHAT_CODEC.encode(chat))
        tools, builtins = offered_tools(chat), recipients(tool.name for tool in offered_builtins(chat))
        self._splitter = ChannelSplitter(tools, builtins, allows_calls=bool(tools or builtins))
        try:
            self._splitter.begin_with(begun_of(chat))
        except PromptError as error:
            raise ClientError(str(error)) from error
        self._has_ended = False

    def read(self, response: Any) -> Iterator[AnswerPart]:  # noqa: ANN401 (generated code has no types)
        """Return what the next response brings. Raises ServerError, ProtocolError."""
        if response.error_message:
            raise _server_error(response.error_message)
        outputs = outputs_of(response.infer_response)
        yield from map(_part, self._splitter.push(array("i", outputs.get(TOKEN_IDS.name, b"")).tolist()))
        if (finished := finished_of(outputs)) is not None:
            yield from map(_part, self._splitter.finish())
            yield self._end(finished)

    def check_whole(self) -> None:
        """Raise ProtocolError unless the last part came."""
        if not self._has_ended:
            raise ProtocolError("Triton ended the stream before the answer's last event")

    def _end(self, finished: Finished) -> Ended:
        self._has_ended = True
        usage = Usage(finished.prompt_tokens, finished.completion_tokens, finished.cached_tokens)
        has_called = self._splitter.num_tool_calls and not self._splitter.has_cut_call
        is_call = finished.finish_reason == "stop" and has_called
        return Ended("tool_calls" if is_call else str(finished.finish_reason), usage, finished.timings)


def ensemble_request(ensemble: str, raw: bytes) -> Any:  # noqa: ANN401 (generated code has no types)
    """Return the request for a chat. raw: of CHAT."""
    request = service_pb2.ModelInferRequest(model_name=ensemble)
    request.inputs.add(name=CHAT.name, datatype=CHAT.datatype, shape=[len(raw)])
    request.raw_input_contents.append(raw)
    return request


def outputs_of(response: Any) -> dict[str, bytes]:  # noqa: ANN401 (generated code has no types)
    """Return what a response of the ensemble holds, by the tensors' names."""
    return {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}


def finished_of(outputs: Mapping[str, bytes]) -> Finished | None:
    """Return the answer's last event, where it is among the outputs. Raises ProtocolError."""
    raw = outputs.get(EVENT.name, b"")
    try:
        event = EVENT_CODEC.decode(raw) if raw else None
    except ContractError as error:
        raise ProtocolError(str(error)) from error
    return event if isinstance(event, Finished) else None


def grpc_error(address: str, error: grpc.RpcError) -> ClientError:
    """Return what a broken call means."""
    if error.code() in _UNREACHABLE:
        return UnreachableError(f"Triton does not answer at {address}: {error.details()}")
    return _server_error(error.details() or error.code().name)


def _ensemble_of(model: str) -> str:
    for name in MODELS:
        if model in (name.openai, name.short, name.triton, name.ensemble):
            return name.ensemble
    known = ", ".join(name.openai for name in MODELS)
    raise ClientError(f"there is no model {model!r}: it is one of {known}")


def _part(delta: Delta) -> AnswerPart:
    match delta:
        case ReasoningDelta(text):
            return Reasoning(text)
        case ContentDelta(text):
            return Content(text)
        case ToolCallDelta(index, None, arguments):
            return CallPart(index, "", "", arguments, delta.syntax)
        case ToolCallDelta(index, str(name), arguments, is_builtin):
            return CallPart(index, f"call_{uuid.uuid4().hex[:24]}", name, arguments, delta.syntax, is_builtin)
    raise AssertionError(f"an unknown delta: {delta!r}")


def _server_error(text: str) -> ServerError:
    code, sentence = decode_error(text)
    return ServerError(sentence, code=code)
