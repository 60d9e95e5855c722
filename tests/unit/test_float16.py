"""float16, on cards without bfloat16: GPT-OSS's residual stream outgrows it, and yet nothing may overflow."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from support.reference import make_reference
from support.stepping import StepByStep, load_torch_model, prompt_of

LARGEST = torch.finfo(torch.float16).max


def test_float16_when_the_residual_stream_outgrows_it_then_logits_stay_finite_and_near(tmp_path: Path) -> None:
    make_reference("base", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    for name, tensor in weights.items():
        if "down_proj" in name or "o_proj" in name or "embed_tokens" in name:
            tensor *= 3000.0  # what is added to the residual stream, and the stream it is added to
    save_file(weights, file, metadata={"format": "pt"})
    prompt = prompt_of(150, seed=1)
    exact, half = (StepByStep(load_torch_model(tmp_path, dtype), prompt) for dtype in (torch.float32, torch.float16))
    largest: list[float] = []
    for run in (exact, half):
        inner = run._model.run_layers  # type: ignore[attr-defined]

        def watched(hidden: torch.Tensor, *rest: object, inner: object = inner) -> torch.Tensor:
            after = inner(hidden, *rest)  # type: ignore[operator]
            largest.append(float(after.abs().max()))
            return after

        run._model.run_layers = watched  # type: ignore[attr-defined]
        run.prefill(100)
        run.prefill(50)
        run.decode(7)
    assert min(largest) > LARGEST, "the stream does outgrow float16 here"
    expected, got = torch.cat(exact.logits), torch.cat(half.logits)
    assert torch.isfinite(got).all()
    assert (got - expected).std() < 0.05 * expected.std()
