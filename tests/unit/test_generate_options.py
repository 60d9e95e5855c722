"""What the generation stub makes of the settings: the engine's options."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gptoss_backend.engine.errors import CheckpointError, EngineError
from gptoss_backend.engine.speculation import Speculation
from gptoss_backend.model_names import MODELS_BY_TRITON
from gptoss_backend.settings import EngineSettings, ProfileSettings
from support.reference import make_reference


@pytest.fixture
def triton_model(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Triton's part, outside of Triton; forgotten afterwards, so that other tests can bring their own stand-ins."""
    library = ModuleType("triton_python_backend_utils")
    vars(library).update(TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)
    monkeypatch.setitem(sys.modules, library.__name__, library)
    package = importlib.import_module("gptoss_backend.triton")
    known = set(sys.modules)
    yield importlib.import_module("gptoss_backend.triton.generate")
    for name in sys.modules.keys() - known:
        if name.startswith(f"{package.__name__}."):
            del sys.modules[name]
            delattr(package, name.rpartition(".")[2])


@pytest.mark.parametrize(
    ("cuda", "sentence"),
    [
        (None, r"there is GPU 1, but torch \S+ is a build for processors: install one for CUDA"),
        ("13.0", r"there is GPU 1, but torch \S+ sees none: CUDA 13.0 needs a newer driver, or another build"),
    ],
)
def test_device_when_torch_does_not_see_the_card_then_the_load_fails_and_says_why(
    triton_model: ModuleType, monkeypatch: pytest.MonkeyPatch, cuda: str | None, sentence: str
) -> None:
    monkeypatch.setattr(triton_model, "bind_to_card", lambda card: None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=sentence):
        triton_model._device({"model_instance_kind": "GPU", "model_instance_device_id": "1"})
    assert triton_model._device({"model_instance_kind": "CPU"}) == torch.device("cpu")
    with pytest.raises(EngineError, match=sentence.replace("there is GPU 1", "this variant .* is for GPUs")):
        triton_model._device({"model_instance_kind": "MODEL"})


def test_setting_when_it_says_int8_then_the_engine_is_told(triton_model: ModuleType) -> None:
    options_of, profile = triton_model._options, ProfileSettings(model="20b")
    assert options_of(EngineSettings(dense_weights="int8"), profile).dense_weights == "int8"
    assert options_of(EngineSettings(), profile).dense_weights == "auto"


def test_setting_when_it_asks_for_dependent_launch_then_the_engine_is_told(triton_model: ModuleType) -> None:
    options_of, profile = triton_model._options, ProfileSettings(model="20b")
    assert options_of(EngineSettings(programmatic_dependent_launch=True), profile).programmatic_dependent_launch
    assert not options_of(EngineSettings(), profile).programmatic_dependent_launch


def test_setting_when_it_names_a_draft_head_then_the_profile_s_own_comes_first(triton_model: ModuleType) -> None:
    engine = EngineSettings(speculation_head="heads/all", speculation_tokens=3, speculation_max_seqs=2)
    options_of = triton_model._options
    assert options_of(EngineSettings(), ProfileSettings(model="20b")).speculation.head is None
    assert options_of(engine, ProfileSettings(model="20b")).speculation == Speculation(3, 2, "heads/all")
    profile = ProfileSettings(model="20b", speculation_head="heads/own", speculation_tokens=5)
    assert options_of(engine, profile).speculation == Speculation(5, 2, "heads/own")
    assert options_of(engine, ProfileSettings(model="20b", speculation_tokens=0)).speculation is None


def test_checkpoint_when_its_vocabulary_ends_before_harmony_s_tokens_then_the_load_fails_and_says_why(
    triton_model: ModuleType, tmp_path: Path
) -> None:
    served = MODELS_BY_TRITON["gpt_oss_20b"]
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    make_reference(small | {"vocab_size": 200_013}, tmp_path / "enough", dtype=torch.bfloat16)
    assert triton_model._checkpoint(str(tmp_path / "enough"), served) == tmp_path / "enough"
    make_reference(small | {"vocab_size": 200_012}, tmp_path / "short", dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="a vocabulary of 200,012 tokens: Harmony, in which chats are written"):
        triton_model._checkpoint(str(tmp_path / "short"), served)
