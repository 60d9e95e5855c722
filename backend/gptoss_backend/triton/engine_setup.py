"""What a generation stub makes its engine of: checkpoint, device, placement and options.

Stage: start of a stub. Owns: the way from the settings, and from what Triton says of the instance, to these.
Does not know: where settings are read, what the engine does with them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import torch

from gptoss_backend.contract import CHECKPOINT_PARAMETER
from gptoss_backend.demo.naming import is_demo
from gptoss_backend.engine.checkpoint import find_checkpoint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError, EngineError
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.choice import SINGLE
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, Speculation
from gptoss_backend.environment import bind_to_card
from gptoss_backend.harmony.phrases import usual_phrases
from gptoss_backend.harmony.vocabulary import CALL
from gptoss_backend.model_names import ModelName
from gptoss_backend.settings import EngineSettings, PlacementSettings, ProfileSettings, Settings

_TOKENS_GUESSED: Final = 4
"""Where it pays unasked. Each token reads experts of its own, which bounds a step on a GPU and not on a processor."""

# on two cores that compute a small model's tokens, too, more responses would make them wait (load/RESULTS.md)
_RESPONSES_PER_CORE: Final = 200.0


def asked_checkpoint(model_config: str) -> str | None:
    """Return the checkpoint that the loading asks for (`gptoss reload`), in place of that of the settings."""
    parameter = json.loads(model_config).get("parameters", {}).get(CHECKPOINT_PARAMETER)
    return str(parameter["string_value"]) if parameter else None


def served_folder(checkpoint: str, model: ModelName) -> Path:
    """Return the checkpoint's folder.

    Raises CheckpointError, also where the demo's weights would pass for OpenAI's, or a model cannot say Harmony.
    """
    folder = find_checkpoint(checkpoint)
    if (num_tokens := ModelConfig.from_folder(folder).vocab_size) <= CALL:
        raise CheckpointError(
            f"{folder} has a vocabulary of {num_tokens:,} tokens: Harmony, in which chats are written, "
            f"needs more than {CALL:,}"
        )
    if is_demo(folder) and model.short != "demo":
        raise CheckpointError(f"{folder} holds the demo's weights, which are not served as {model.openai}")
    return folder


def device_of(args: dict[str, str]) -> torch.device:
    """Return the device of this instance: the card that Triton assigns, the first of all cards, or the CPU.

    Raises EngineError where torch does not see the card that Triton assigns, or any of all: a CPU would be no answer to
    that.
    """
    kind = args["model_instance_kind"]
    if kind == "CPU":
        return torch.device("cpu")
    there = "this variant of the model's config is for GPUs"
    if kind == "GPU":
        card = int(args["model_instance_device_id"])
        bind_to_card(card)
        there = f"there is GPU {card}"
    if not torch.cuda.is_available():
        raise EngineError(_unseen(there))
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


def _unseen(there: str) -> str:
    if torch.version.cuda is None:
        return f"{there}, but torch {torch.__version__} is a build for processors: install one for CUDA"
    return (
        f"{there}, but torch {torch.__version__} sees none: CUDA {torch.version.cuda} needs a newer driver, or another "
        "build of torch (gptoss doctor)"
    )


def placement_of(settings: PlacementSettings, kind: str) -> PlacementOptions:
    """Return what was asked for. An instance that Triton has given a card of its own stays on it."""
    if kind == "GPU":
        return PlacementOptions(mode=SINGLE)
    host, _, port = (settings.rendezvous or "127.0.0.1:0").rpartition(":")
    return PlacementOptions(
        mode=settings.mode,
        num_devices=settings.num_devices,
        num_nodes=settings.num_nodes,
        host=host,
        port=int(port),
        secret=settings.secret or "",
        timeout_s=settings.timeout_s,
        meeting_timeout_s=settings.meeting_timeout_s,
    )


def responses_per_s(settings: Settings) -> float:
    """Return how many responses a second this stub's streams get, all together: of the host's cores its share."""
    if settings.engine.max_responses_per_s is not None:
        return settings.engine.max_responses_per_s
    return _RESPONSES_PER_CORE * len(os.sched_getaffinity(0)) / settings.server.num_tritonservers


def options_of(engine: EngineSettings, profile: ProfileSettings, device: torch.device) -> EngineOptions:
    """Return what the engine of a profile takes on: the profile's own word comes first."""
    return EngineOptions(
        dtype=engine.dtype,
        max_num_seqs=profile.max_num_seqs or engine.max_num_seqs,
        max_queue=profile.max_queue or engine.max_queue,
        prefill_chunk_tokens=profile.prefill_chunk_tokens or engine.prefill_chunk_tokens,
        block_size=engine.block_size,
        max_model_len=engine.max_model_len,
        kv_cache_bytes=engine.kv_cache_bytes,
        num_threads=engine.num_threads,
        kv_cache_dtype=engine.kv_cache_dtype,
        cpu_kernels=engine.cpu_kernels,
        experts=engine.experts,
        dense_weights=engine.dense_weights,
        cuda_graphs=engine.cuda_graphs,
        programmatic_dependent_launch=engine.programmatic_dependent_launch,
        request_timeout_s=engine.request_timeout_s,
        priority_step_s=engine.priority_step_s,
        speculation=_speculation_of(engine, profile, device),
        phrases=_phrases_of(engine, profile),
    )


def _tokens_guessed(engine: EngineSettings, profile: ProfileSettings) -> int | None:
    return engine.speculation_tokens if profile.speculation_tokens is None else profile.speculation_tokens


def _speculation_of(engine: EngineSettings, profile: ProfileSettings, device: torch.device) -> Speculation | None:
    head, num_tokens = profile.speculation_head or engine.speculation_head, _tokens_guessed(engine, profile)
    if num_tokens is None:
        num_tokens = _TOKENS_GUESSED if device.type == "cpu" or head else 0
    return Speculation(num_tokens, engine.speculation_max_seqs, head) if num_tokens else None


def _phrases_of(engine: EngineSettings, profile: ProfileSettings) -> Phrases:
    return NO_PHRASES if _tokens_guessed(engine, profile) == 0 else Phrases(usual_phrases())
