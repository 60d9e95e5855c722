"""Who gets programmatic dependent launch: what it compiles to is in test_kernels_compiled.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gptoss_backend.engine import computing
from gptoss_backend.engine.computing import Computing
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.kernels.dependent_launch import launch_dependently, launch_options
from gptoss_backend.engine.options import EngineOptions
from support.shapes import published_config

ASKED = EngineOptions(programmatic_dependent_launch=True, cpu_kernels="torch")


def chosen(options: EngineOptions) -> Computing:
    config, device = published_config("20b"), torch.device("cpu")
    return Computing.choose(config, device, options, is_alone=True, has_packed_experts=True)


def test_choice_when_nobody_asks_then_kernels_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "has_dependent_launch", lambda device: True)
    assert not chosen(dataclasses.replace(ASKED, programmatic_dependent_launch=False)).dependent_launch


def test_choice_when_the_card_knows_it_then_it_is_told_with_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "has_dependent_launch", lambda device: True)
    choice = chosen(ASKED)
    assert choice.dependent_launch
    assert "steps in CUDA graphs with dependent launch" in choice.described(has_graphs=True)
    assert "dependent launch" not in choice.described(has_graphs=False)


def test_choice_when_the_card_does_not_know_it_then_it_is_left_out_and_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        assert not chosen(ASKED).dependent_launch
    assert "programmatic dependent launch: left out, it is for GPUs from Hopper on" in caplog.text


def test_choice_when_nothing_is_recorded_then_it_is_refused() -> None:
    with pytest.raises(EngineError, match=r"programmatic_dependent_launch .* engine\.cuda_graphs is false"):
        chosen(dataclasses.replace(ASKED, cuda_graphs=False))


def test_launches_when_a_block_ends_then_they_are_as_before() -> None:
    usual = {"DEPENDENT": False}
    assert launch_options() == usual
    with launch_dependently(True):
        assert launch_options() == {"DEPENDENT": True, "launch_pdl": True}
        with launch_dependently(False):
            assert launch_options() == usual
    assert launch_options() == usual
