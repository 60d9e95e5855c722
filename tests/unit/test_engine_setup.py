"""What the generation stub makes of the settings: checkpoint, device and the engine's options."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gptoss_backend.engine.errors import CheckpointError, EngineError
from gptoss_backend.engine.speculation import Speculation
from gptoss_backend.model_names import MODELS_BY_TRITON
from gptoss_backend.settings import EngineSettings, ProfileSettings
from gptoss_backend.settings_sources import load_settings
from gptoss_backend.triton import engine_setup
from gptoss_backend.triton.engine_setup import options_of, responses_per_s
from support.reference import make_reference

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("cuda", "sentence"),
    [
        (None, r"there is GPU 1, but torch \S+ is a build for processors: install one for CUDA"),
        ("13.0", r"there is GPU 1, but torch \S+ sees none: CUDA 13.0 needs a newer driver, or another build"),
    ],
)
def test_device_when_torch_does_not_see_the_card_then_the_load_fails_and_says_why(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, sentence: str
) -> None:
    monkeypatch.setattr(engine_setup, "bind_to_card", lambda card: None)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=sentence):
        engine_setup.device_of({"model_instance_kind": "GPU", "model_instance_device_id": "1"})
    assert engine_setup.device_of({"model_instance_kind": "CPU"}) == torch.device("cpu")
    with pytest.raises(EngineError, match=sentence.replace("there is GPU 1", "this variant .* is for GPUs")):
        engine_setup.device_of({"model_instance_kind": "MODEL"})


def test_setting_when_it_says_int8_then_the_engine_is_told() -> None:
    profile = ProfileSettings(model="20b")
    assert options_of(EngineSettings(dense_weights="int8"), profile, CPU).dense_weights == "int8"
    assert options_of(EngineSettings(), profile, CPU).dense_weights == "auto"


def test_setting_when_it_asks_for_dependent_launch_then_the_engine_is_told() -> None:
    profile = ProfileSettings(model="20b")
    assert options_of(EngineSettings(programmatic_dependent_launch=True), profile, CPU).programmatic_dependent_launch
    assert not options_of(EngineSettings(), profile, CPU).programmatic_dependent_launch


def test_setting_when_it_names_a_draft_head_then_the_profile_s_own_comes_first() -> None:
    engine = EngineSettings(speculation_head="heads/all", speculation_tokens=3, speculation_max_seqs=2)
    assert options_of(EngineSettings(), ProfileSettings(model="20b"), CPU).speculation.head is None
    assert options_of(engine, ProfileSettings(model="20b"), CPU).speculation == Speculation(3, 2, "heads/all")
    profile = ProfileSettings(model="20b", speculation_head="heads/own", speculation_tokens=5)
    assert options_of(engine, profile, CPU).speculation == Speculation(5, 2, "heads/own")
    assert options_of(engine, ProfileSettings(model="20b", speculation_tokens=0), CPU).speculation is None


def test_guesses_when_nobody_asks_for_them_then_a_processor_makes_them_and_a_gpu_where_it_has_a_head() -> None:
    engine, profile = EngineSettings(), ProfileSettings(model="20b")
    assert options_of(engine, profile, CPU).speculation == Speculation(4, 2)
    assert options_of(engine, profile, GPU).speculation is None
    assert options_of(EngineSettings(speculation_tokens=3), profile, GPU).speculation == Speculation(3, 2)
    assert options_of(EngineSettings(speculation_head="heads/all"), profile, GPU).speculation == Speculation(
        4, 2, "heads/all"
    )


def test_checkpoint_when_its_vocabulary_ends_before_harmony_s_tokens_then_the_load_fails_and_says_why(
    tmp_path: Path,
) -> None:
    served = MODELS_BY_TRITON["gpt_oss_20b"]
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    make_reference(small | {"vocab_size": 200_013}, tmp_path / "enough", dtype=torch.bfloat16)
    assert engine_setup.served_folder(str(tmp_path / "enough"), served) == tmp_path / "enough"
    make_reference(small | {"vocab_size": 200_012}, tmp_path / "short", dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="a vocabulary of 200,012 tokens: Harmony, in which chats are written"):
        engine_setup.served_folder(str(tmp_path / "short"), served)


def test_responses_when_replicas_share_a_host_then_so_they_do_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    assert responses_per_s(load_settings({}, environ={})) == 3200
    assert responses_per_s(load_settings({"server": {"num_replicas": 4}}, environ={})) == 800
    asked = {"server": {"num_replicas": 4}, "engine": {"max_responses_per_s": 50}}
    assert responses_per_s(load_settings(asked, environ={})) == 50
