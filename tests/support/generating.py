"""Whole answers from an engine, without Triton."""

from __future__ import annotations

import queue
from dataclasses import replace

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.observations import EngineStats
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta


def generate(
    model: Model, prompts: list[list[int]], num_tokens: int, options: EngineOptions, **sampling: object
) -> tuple[list[list[int]], EngineStats]:
    """Run all prompts through one engine at once; returns their tokens and the engine's counts.

    sampling: of SamplingParams; greedy where it does not say.
    """
    answers: dict[str, list[int]] = {str(i): [] for i in range(len(prompts))}

    def collect(deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            assert delta.error is None
            answers[delta.request_id].extend(delta.token_ids)

    engine = Engine(model, options, collect)
    engine.start()
    params = replace(SamplingParams(temperature=0.0, max_tokens=num_tokens), **sampling)  # type: ignore[arg-type]
    for index, prompt in enumerate(prompts):
        engine.submit(GenerationRequest(str(index), prompt, params))
    engine.stop(drain_s=600.0)  # in the interpreter, on a busy machine, a step takes seconds
    return list(answers.values()), engine.stats()


def deltas_of(
    model: Model, *requests: GenerationRequest, options: EngineOptions
) -> tuple[dict[str, list[TokenDelta]], EngineStats]:
    """Submit all to an engine before its loop begins, so that they meet in its first steps, and await the last words.

    Returns what was said of each, by its id, and the engine's counts.
    """
    said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
    engine = Engine(model, options, said.put)
    for request in requests:
        engine.submit(request)
    engine.start()
    deltas: dict[str, list[TokenDelta]] = {request.request_id: [] for request in requests}
    num_open = len(requests)
    while num_open:
        for delta in said.get(timeout=240):
            deltas[delta.request_id].append(delta)
            num_open -= delta.is_last
    engine.stop(drain_s=0.0)
    return deltas, engine.stats()
