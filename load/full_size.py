"""A full-size checkpoint on this machine's CPU: does it load, in how much memory, and how fast does it answer?

Stage: none of a request's; loading, then stages 4 and 5 alone.
Owns: the command line, the memory's peak, the check against plain torch.
Does not know: how the kernels work.

    .venv/bin/python load/full_size.py                          # makes a random 20B in .checkpoints first: 13.8 GB
    .venv/bin/python load/full_size.py --checkpoint FOLDER      # takes what is there
    .venv/bin/python load/full_size.py --shape small
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.naming import name_of
from gptoss_backend.demo.random_checkpoint import SHAPES, write_random_checkpoint
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits, plan_cache
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import LocalModel
from gptoss_backend.engine.native.library import choose_instruction_set
from gptoss_backend.engine.native.model import BLOCK_SIZE, NativeModel
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from load.bench.engine_runner import EngineRunner
from load.bench.figures import markdown

_PROJECT: Final = Path(__file__).resolve().parents[1]
_GB: Final = 10**9
_CPU: Final = torch.device("cpu")
_CHECKED_TOKENS: Final = 12
# rounding may send a token to another expert in one computation and not in the other
_ERROR_RATIO: Final = 1.5


def main() -> int:
    """Run the command; returns 1 where memory or the check fails."""
    options = _parser().parse_args()
    folder = options.checkpoint or _made(options.shape)
    memory = PeakMemory()
    figures = _answer(folder, options)
    peak = memory.stop()
    gc.collect()
    check = _check(folder, options.checked_layers)
    rows = [("what", "measured"), *figures, *peak.rows(), *check.rows()]
    sys.stdout.write(markdown(rows) + "\n")
    return 0 if peak.resident_bytes <= options.memory_gb * _GB and check.is_good else 1


def _made(shape: str) -> Path:
    folder = _PROJECT / ".checkpoints" / f"gpt-oss-{shape}-mxfp4"
    if not folder.exists():
        write_random_checkpoint(folder, SHAPES[shape], seed=20, name=name_of(shape))
    return folder


def _answer(folder: Path, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Load the checkpoint and answer some prompts, one after the other."""
    started_s = perf_counter()
    runner = EngineRunner.load(
        folder, EngineOptions(num_threads=options.threads, kv_cache_bytes=options.kv_cache_bytes)
    )
    load_s = perf_counter() - started_s
    rng = Random("full size")
    vocab_size = ModelConfig.from_folder(folder).vocab_size
    prompts = [[rng.randrange(vocab_size) for _ in range(options.prompt_tokens)] for _ in range(options.requests)]
    replies, _ = runner.play(prompts, 1, options.new_tokens)
    runner.engine.stop(0.0)
    first_s = sorted(reply.first_token_s for reply in replies)[len(replies) // 2]
    per_token_s = [(reply.last_token_s - reply.first_token_s) / (reply.num_tokens - 1) for reply in replies]
    token_s = sorted(per_token_s)[len(replies) // 2]
    return [
        ("load, s", f"{load_s:.1f}"),
        (f"time to first token, {options.prompt_tokens} prompt tokens, ms", f"{first_s * 1000:.0f}"),
        (f"time per token, over {options.new_tokens} new ones, ms", f"{token_s * 1000:.1f}"),
        ("tokens/s", f"{1 / token_s:.1f}"),
    ]


# --- memory ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory at any time."""

    resident_bytes: int
    """File pages included. Of this process or its child, the kernels' compiler, which ends before weights are read."""
    anonymous_bytes: int

    def rows(self) -> list[tuple[str, str]]:
        """Return lines of a table."""
        return [
            ("peak resident memory, GB", f"{self.resident_bytes / _GB:.1f}"),
            ("of it anonymous, GB", f"{self.anonymous_bytes / _GB:.1f}"),
        ]


class PeakMemory:
    """Watches this process's memory from its making to `stop`."""

    _PERIOD_S: Final = 0.02

    def __init__(self) -> None:
        self._anonymous_bytes = 0  # the watching thread's until it is joined
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._thread.start()

    def stop(self) -> Peak:
        """End watching and return the peak."""
        self._stopped.set()
        self._thread.join()
        # in KiB on Linux; the kernel keeps no peak of anonymous memory, so that one is sampled
        own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return Peak(max(own, child) * 1024, self._anonymous_bytes)

    def _watch(self) -> None:
        while not self._stopped.wait(self._PERIOD_S):
            self._anonymous_bytes = max(self._anonymous_bytes, _anonymous_bytes())


def _anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


# --- the check ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Check:
    """How far logits lie from torch's in float32, both over the first layers only: standard deviations, relative."""

    num_layers: int
    kernels_error: float
    torch_error: float
    """Of plain torch in bfloat16."""

    @property
    def is_good(self) -> bool:
        """True where the kernels are about as close as torch in their precision."""
        return self.kernels_error <= _ERROR_RATIO * self.torch_error

    def rows(self) -> list[tuple[str, str]]:
        """Return lines of a table."""
        return [
            (f"error of logits after {self.num_layers} layers, C++ kernels", f"{self.kernels_error:.2e}"),
            ("error of torch in bfloat16", f"{self.torch_error:.2e}"),
        ]


def _check(folder: Path, num_layers: int) -> Check:
    whole = ModelConfig.from_folder(folder)
    config = replace(whole, num_layers=num_layers, layer_types=whole.layer_types[:num_layers])
    shard = Shard.of_all(config)
    exact = _logits(TorchModel(shard, load_weights(folder, shard, torch.float32, _CPU, packed=True)))
    bfloat16 = load_weights(folder, shard, torch.bfloat16, _CPU, packed=True)
    errors = []
    for model in (NativeModel(config, [bfloat16], 2, choose_instruction_set()), TorchModel(shard, bfloat16)):
        errors.append(float((_logits(model) - exact).std() / exact.std()))
    return Check(num_layers, *errors)


def _logits(model: LocalModel) -> torch.Tensor:
    """Return the logits at every position of one prompt, [_CHECKED_TOKENS, vocab]."""
    plan = plan_cache(
        model.config,
        CacheLimits(BLOCK_SIZE, 1, _CHECKED_TOKENS, max_model_len=128),
        budget_bytes=256 * 2**20,
        element_size=model.dtype.itemsize,
    )
    model.allocate_cache(plan)
    cache = KVCache(plan, model.config.sliding_window)
    prompt = [Random("check").randrange(model.config.vocab_size) for _ in range(_CHECKED_TOKENS)]
    sequence = Sequence(GenerationRequest("check", prompt, SamplingParams()), max_tokens=1)
    sequence.row, _ = cache.open(prompt)
    cache.reserve(sequence.row, len(prompt))
    batch = Batch.build([], [ScheduledSequence(sequence, len(prompt), samples=True)])
    output = model.forward(replace(batch, samples=list(range(len(prompt)))), cache, with_logits=True)
    assert output.logits is not None  # noqa: S101 (asked for)
    return output.logits


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="a folder [default: a random one of --shape, made if need be]")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="20b")
    parser.add_argument("--threads", type=int, help="of the engine [default: all cores]")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--requests", type=int, default=3)
    parser.add_argument("--kv-cache-bytes", type=int, default=2**30)
    parser.add_argument("--memory-gb", type=float, default=18.0, help="a higher peak fails the run [default: 18]")
    parser.add_argument("--checked-layers", type=int, default=2)
    return parser


if __name__ == "__main__":
    sys.exit(main())
