"""Ranks that replay their steps where there is no GPU: the kernels are interpreted, and replaying is doing again.

`python -m support.interpreted_rank`: a rank's process, as `placement.worker` but so. Where there are GPUs, ranks need
none of this, but then as many of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from gptoss_backend.engine.checkpoint import LayerWeights, Weights, load_weights
from gptoss_backend.engine.kernels import graphed_model, recording
from gptoss_backend.engine.kernels.graphed_model import GraphedModel
from gptoss_backend.engine.kernels.recording import Work
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.placement import driver, worker
from support.float32_rank import let_float32_replay
from support.quick_interpreter import hurry


def for_kernels(layer: LayerWeights) -> LayerWeights:
    """Return a layer as it is loaded to a GPU."""

    def repacked(matrices: object) -> PackedMatrices:
        assert isinstance(matrices, PackedMatrices)
        if matrices.is_repacked:
            return matrices
        return dataclasses.replace(matrices, blocks=matrices.blocks.clone()).repack()  # the file's stay as they are

    experts = layer.experts
    experts = dataclasses.replace(experts, gate_up=repacked(experts.gate_up), down=repacked(experts.down))
    return dataclasses.replace(layer, experts=experts)


def let_ranks_replay(put: Callable[[Any, str, Any], None]) -> None:
    """Prepare this process. put: sets an attribute, as `setattr`. Little is recorded, so that rows stand in, too."""
    let_float32_replay(put)
    for module in (driver, worker):
        put(module, "load_weights", _load_for_kernels)
    put(graphed_model, "CudaRecorder", _Again)
    put(recording, "_STEPS", (1, 2, 4))
    put(recording, "_PASSES", (16,))
    put(graphed_model, "_SAMPLES_COMPILED", (2, 2))
    put(GraphedModel, "_side_stream", None)


class _Again:
    """Records nothing."""

    def __init__(self, stream: None) -> None:
        pass

    def __call__(self, work: Work) -> Work:
        """Return what does the work again."""
        return work


def _load_for_kernels(*args: Any, **options: Any) -> Weights:  # noqa: ANN401 (whatever `load_weights` takes)
    weights = load_weights(*args, **options)
    return dataclasses.replace(weights, layers=tuple(map(for_kernels, weights.layers)))


if __name__ == "__main__":
    hurry()
    let_ranks_replay(setattr)
    worker.run()
