"""The demo model learns on a GPU what it learns on a processor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("openai_harmony")

from gptoss_backend.demo import train
from gptoss_backend.demo.train import Run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_run_when_it_learns_on_a_gpu_then_its_losses_are_a_processors_and_it_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "known_tokens", lambda seed: torch.arange(1000))
    runs = [Run(3, 0, 1e-3, device=torch.device(name)) for name in ("cpu", "cuda")]
    batches = runs[0].batcher.block(0)[:4]
    losses = [[run._learn(batch) for batch in batches] for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    runs[1].end_descent()
    runs[1].save(tmp_path / "state.pt")
    resumed = Run(3, 0, 1e-3, device=torch.device("cuda"))
    resumed.resume(tmp_path / "state.pt")
    assert resumed._learn(batches[0]) < losses[1][0]
    resumed.end_descent()
    resumed.average()
