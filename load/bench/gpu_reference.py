"""transformers' own `generate` over a GPT-OSS of random weights: what one gets without us.

Owns: the reference's model and its timing. Does not know: our engine.
"""

from __future__ import annotations

import time

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from gptoss_backend.demo.random_checkpoint import Shape, config_document

_NUM_NEW = 32


def time_reference(shape: Shape, batch: int, context: int, device: torch.device, dtype: torch.dtype) -> float | None:
    """Return the seconds of a greedy step of `batch` rows at `context`, experts in `dtype`; None: it does not fit."""
    config = GptOssConfig.from_dict(config_document(shape, "reference", "bfloat16"))
    try:
        with device:
            torch.set_default_dtype(dtype)
            model = GptOssForCausalLM(config)
        model.train(mode=False)
        prompt = torch.randint(0, shape.vocab_size, (batch, context), device=device)
        return _step_s(model, prompt)
    except torch.cuda.OutOfMemoryError:
        return None
    finally:
        torch.set_default_dtype(torch.float32)


def _step_s(model: GptOssForCausalLM, prompt: torch.Tensor) -> float:
    """Return the time of the last half of the steps, so that the prompt's is left out."""
    few, many = (_generate_s(model, prompt, count) for count in (_NUM_NEW // 2, _NUM_NEW))
    return (many - few) / (_NUM_NEW - _NUM_NEW // 2)


def _generate_s(model: GptOssForCausalLM, prompt: torch.Tensor, num_new: int) -> float:
    times = []
    for _ in range(2):  # the first warms up
        started_s = time.perf_counter()
        answer = model.generate(  # type: ignore[misc]
            prompt, max_new_tokens=num_new, min_new_tokens=num_new, do_sample=False, pad_token_id=0
        )
        assert isinstance(answer, torch.Tensor)  # noqa: S101 (nothing else is asked for)
        answer.cpu()  # waits for the device
        times.append(time.perf_counter() - started_s)
    return times[-1]
