"""The preprocess stub, with a stand-in for the library that Triton's stub process provides."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gptoss_backend.contract import CHAT, CHAT_CODEC, PROMPT_IDS, SAMPLING, Refusal, SamplingParams, decode_sampling
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.heartbeat import HEARTBEAT
from support.stub_tensor import Tensor

if TYPE_CHECKING:
    from gptoss_backend.triton.preprocess import Preprocess

GOOD = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "sampling": {"seed": 7}}).encode()


@dataclass
class Request:
    chat: bytes

    def request_id(self) -> str:
        return "r1"


@dataclass
class Response:
    tensors: list[Tensor] = field(default_factory=list)

    def __getitem__(self, name: str) -> np.ndarray:
        return next(tensor.array for tensor in self.tensors if tensor.name == name)


class Logger:
    lines: list[str]

    @classmethod
    def log_error(cls, text: str) -> None:
        cls.lines.append(text)

    log_warn = log_info = log_error


def get_input(request: Request, name: str) -> np.ndarray:
    assert name == CHAT.name
    return np.frombuffer(bytearray(request.chat), np.uint8)


class MetricFamily:
    GAUGE = "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None:
        assert (name, kind) == (HEARTBEAT, self.GAUGE)

    def Metric(self, labels: dict[str, str]) -> MetricFamily:  # noqa: N802 (Triton's)
        assert labels == {"model": "preprocess", "instance": "preprocess_0_0"}
        return self

    def set(self, value: float) -> None:
        self.value = value


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Preprocess]:
    library = ModuleType("triton_python_backend_utils")
    Logger.lines = []
    parts = {"Tensor": Tensor, "InferenceRequest": Request, "InferenceResponse": Response, "Logger": Logger}
    vars(library).update(parts, get_input_tensor_by_name=get_input, MetricFamily=MetricFamily)
    monkeypatch.setitem(sys.modules, library.__name__, library)
    ours = [f"gptoss_backend.triton.{name}" for name in ("preprocess", "tensors", "logs", "heartbeat")]
    for name in ours:
        monkeypatch.delitem(sys.modules, name, raising=False)
    logger = logging.getLogger("gptoss_backend")  # the stub takes its process's log over
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name))
    from gptoss_backend.triton.preprocess import Preprocess

    model = Preprocess()
    model.initialize({"model_name": "preprocess", "model_instance_name": "preprocess_0_0"})
    yield model
    model.finalize()
    for name in ours:
        sys.modules.pop(name, None)


def sampling_of(response: Response) -> SamplingParams | Refusal:
    return decode_sampling(response[SAMPLING.name].tobytes())


def test_preprocess_when_the_chat_is_good_then_it_answers_with_ids_and_sampling(stub: Preprocess) -> None:
    (response,) = stub.execute([Request(GOOD)])
    assert response[PROMPT_IDS.name].dtype == np.int32
    assert response[PROMPT_IDS.name].tolist() == render_prompt(CHAT_CODEC.decode(GOOD))
    assert sampling_of(response) == SamplingParams(seed=7)


@pytest.mark.parametrize(
    ("chat", "place"), [(b"", "CHAT: "), (b'{"messages": [{"role": "tool", "content": "x"}]}', "messages[0]: ")]
)
def test_preprocess_when_one_chat_is_faulty_then_its_neighbours_are_answered(
    stub: Preprocess, chat: bytes, place: str
) -> None:
    first, faulty, last = stub.execute([Request(GOOD), Request(chat), Request(GOOD)])
    assert sampling_of(first) == sampling_of(last) == SamplingParams(seed=7)
    refusal = sampling_of(faulty)
    assert isinstance(refusal, Refusal)
    assert refusal.refused.startswith(place)
    assert not refusal.is_internal
    assert faulty[PROMPT_IDS.name].size, "Triton's cache takes no empty tensor"


TOOL = {"name": "f", "parameters": {"properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}}
BOUND = {
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [TOOL],
    "tool_choice": {"mode": "required", "name": "f"},
    "parallel_tool_calls": False,
    "response_format": {"schema": {"type": "object", "properties": {"z": {}, "a": {}}}},
}


def test_preprocess_when_the_answer_is_bound_then_the_sampling_says_so(stub: Preprocess) -> None:
    (response,) = stub.execute([Request(json.dumps(BOUND).encode())])
    sampling = sampling_of(response)
    assert isinstance(sampling, SamplingParams)
    assert sampling.structure == output_structure(CHAT_CODEC.decode(json.dumps(BOUND).encode()))
    assert sampling.structure is not None
    assert sampling.structure.final is not None
    assert sampling.structure.final.schema is not None
    assert list(sampling.structure.final.schema["properties"]) == ["z", "a"], "properties come in the schema's order"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"response_format": {"schema": {"type": "nothing"}}}, "response_format.json_schema.schema: "),
        ({"tools": [TOOL, TOOL | {"name": "g", "parameters": {"type": "nothing"}}]}, "tools[1].function.parameters: "),
        ({"tool_choice": {"mode": "required", "name": "g"}}, "tool_choice: "),
    ],
)
def test_preprocess_when_what_binds_the_answer_is_faulty_then_the_refusal_names_it(
    stub: Preprocess, change: dict[str, object], place: str
) -> None:
    (response,) = stub.execute([Request(json.dumps(BOUND | change).encode())])
    refusal = sampling_of(response)
    assert isinstance(refusal, Refusal)
    assert refusal.refused.startswith(place)
    assert not refusal.is_internal


def test_preprocess_when_something_unforeseen_fails_then_the_log_has_it_and_the_client_does_not(
    stub: Preprocess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> list[int]:
        raise RuntimeError("secret")

    monkeypatch.setattr("gptoss_backend.triton.preprocess.render_prompt", fail)
    (response,) = stub.execute([Request(GOOD)])
    refusal = sampling_of(response)
    assert isinstance(refusal, Refusal)
    assert refusal.is_internal
    assert "secret" not in refusal.refused
    assert not response[PROMPT_IDS.name].size, "or the cache would keep the fault"
    assert any("secret" in line and "r1" in line and "Traceback" in line for line in Logger.lines)
