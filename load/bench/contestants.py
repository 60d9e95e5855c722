"""The servers that are compared, each as it runs best on a few CPU cores.

Stage: before 1 route.
Owns: commands, flags and environments, and how each is asked for the same thing.
Does not know: processes, time, figures.

All are sent the same prompts of single-token words: as ids where the server takes ids, as text where it does not.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from gptoss_backend.harmony.vocabulary import token_bytes
from load.bench.checkpoints import gguf
from load.bench.environments import LLAMA, LLAMA_SERVER, TRANSFORMERS, VLLM
from load.bench.figures import OURS

_COMPLETIONS: Final = "/v1/completions"
_MAX_STREAMS: Final = 64
_SMALL_ENOUGH_FOR_ONE_THREAD: Final = 200_000_000
"""Bytes of weights below which a second thread costs these servers more than it brings, on two cores."""


class Contestant(ABC):
    """A server over one checkpoint folder."""

    name: ClassVar[str]
    environment_folder: ClassVar[Path | None] = None
    """What `load/peers.py setup` makes for it; None: nothing is needed."""
    path: str = _COMPLETIONS
    start_timeout_s: ClassVar[float] = 240.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        self.num_threads = 1 if weights < _SMALL_ENOUGH_FOR_ONE_THREAD else (os.cpu_count() or 1)

    @abstractmethod
    def command(self, port: int, run_dir: Path) -> list[str]:
        """Return the command that serves on `port` of this machine. run_dir: for what it writes."""

    @abstractmethod
    def body(self, prompt: Sequence[int], num_new_tokens: int) -> dict[str, Any]:
        """Return the request: streamed, greedy, of exactly so many tokens."""

    def variables(self) -> dict[str, str]:
        """Return what its processes find in their environment besides this one's."""
        return {"HF_HUB_OFFLINE": "1"}


class Ours(Contestant):
    """This project, whole: adapter, Triton, engine."""

    name = OURS

    def command(self, port: int, run_dir: Path) -> list[str]:
        gptoss = Path(sys.executable).with_name("gptoss")
        served = ("--model", "demo", "--checkpoint", str(self.folder))
        return [str(gptoss), "serve", *served, "--port", str(port), "--run-dir", str(run_dir / "run")]

    def body(self, prompt: Sequence[int], num_new_tokens: int) -> dict[str, Any]:
        return _openai("gpt-oss-demo", num_new_tokens) | {"prompt": list(prompt), "ignore_eos": True}


class Vllm(Contestant):
    """vLLM's CPU build in one process: its engine and worker processes would fight for two cores."""

    name = "vllm"
    environment_folder = VLLM

    def command(self, port: int, run_dir: Path) -> list[str]:
        command = [str(VLLM / "bin" / "vllm"), "serve", str(self.folder), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--served-model-name", "peer", "--distributed-executor-backend", "uni", "--dtype", "bfloat16"]
        return [*command, "--max-model-len", "8192", "--max-num-seqs", str(_MAX_STREAMS)]

    def body(self, prompt: Sequence[int], num_new_tokens: int) -> dict[str, Any]:
        return _openai("peer", num_new_tokens) | {"prompt": list(prompt), "ignore_eos": True}

    def variables(self) -> dict[str, str]:
        return super().variables() | {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "4",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(self.num_threads),
        }


class Llama(Contestant):
    """llama.cpp's server."""

    name = "llama.cpp"
    environment_folder = LLAMA

    def command(self, port: int, run_dir: Path) -> list[str]:
        command = [str(LLAMA_SERVER), "--model", str(gguf(self.folder)), "--host", "127.0.0.1", "--port", str(port)]
        threads = str(self.num_threads)
        return [*command, "--threads", threads, "--threads-batch", threads, "--parallel", "32", "--ctx-size", "65536"]

    def body(self, prompt: Sequence[int], num_new_tokens: int) -> dict[str, Any]:
        return _openai("peer", num_new_tokens) | {"prompt": list(prompt), "ignore_eos": True, "cache_prompt": False}


class Transformers(Contestant):
    """transformers serve with continuous batching."""

    name = "transformers"
    environment_folder = TRANSFORMERS

    def command(self, port: int, run_dir: Path) -> list[str]:
        command = [str(TRANSFORMERS / "bin" / "transformers"), "serve", str(self.folder), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--device", "cpu", "--dtype", "bfloat16"]
        # by default its cache takes 14 GB, and it is three times slower
        blocks = ["--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "256"]
        return [*command, "--continuous-batching", *blocks]

    def body(self, prompt: Sequence[int], num_new_tokens: int) -> dict[str, Any]:
        # eos -1: no token ends an answer
        generation = '{"do_sample": false, "eos_token_id": -1, "pad_token_id": 199999}'
        return _openai(str(self.folder), num_new_tokens) | {"prompt": as_text(prompt), "generation_config": generation}

    def variables(self) -> dict[str, str]:
        return super().variables() | {"OMP_NUM_THREADS": str(self.num_threads)}


class TransformersOneByOne(Transformers):
    """transformers serve as it comes: one request after another."""

    name = "transformers, no batching"

    def command(self, port: int, run_dir: Path) -> list[str]:
        command = super().command(port, run_dir)
        return command[: command.index("--continuous-batching")]


CONTESTANTS: Final[dict[str, type[Contestant]]] = {
    "ours": Ours,
    "vllm": Vllm,
    "llama": Llama,
    "transformers": Transformers,
    "transformers-plain": TransformersOneByOne,
}


def as_text(words: Sequence[int]) -> str:
    """Return the text that a tokenizer makes into these single-token words again."""
    return b"".join(map(token_bytes, words)).decode()


def _openai(model: str, num_new_tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": num_new_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
