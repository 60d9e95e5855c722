"""What Triton and the adapter cost at a GPU's pace, measured without the GPU.

Stage: all of a request's but 5, where a model that computes nothing lasts as long as an H100 was seen to (bench.paced).
Owns: the command, the server over that model, the table.
Does not know: how an answer is timed (bench.stream).

    .venv/bin/python -m load.serving_bench --streams 1 8 32 128 256
    .venv/bin/python -m load.serving_bench --speed 1.45 --streams 1
    .venv/bin/python -m load.serving_bench --streams 32 256 --held-every 8

On a machine that is shared by server and client a figure of many streams says what these cores bear, and the cores that
each process takes say what a larger machine would need: no process can use more than about one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

import httpx
import psutil

from gptoss_backend.engine.engine import Engine, Sink
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_client.console import plain_console
from gptoss_client.launch import TRITON
from gptoss_client.run_state import RunDirectory
from load.bench.engine_runner import EngineRunner
from load.bench.figures import ENGINE, OURS, RoundFigures, markdown
from load.bench.paced import paced_model
from load.bench.stream import ask_all, post
from load.bench.tokenizer import single_token_words
from load.bench.workload import make_prompts
from load.own_server import own_server

_ROOT: Final = Path(__file__).resolve().parents[1]
_ROUND_LIMIT_S: Final = 300.0
_PROMPT_TOKENS: Final = 100
_WORDS: Final = "( [a-z]+)*"
"""A regular expression that lets come what the paced model says"""
_MODEL_FILE: Final = '''"""The demo's place, taken by a model that computes nothing."""

import sys

sys.path.insert(0, {root!r})

from gptoss_backend.triton import generate
from load.serving_bench import paced_engine

generate.Engine.load = staticmethod(lambda folder, options, sink, **rest: paced_engine({speed!r}, options, sink))
TritonPythonModel = generate.Generate
'''
_console = plain_console()


@dataclass(frozen=True, slots=True)
class Served:
    """A round through the whole stack, beside one of the engine alone."""

    alone: RoundFigures
    whole: RoundFigures
    cores: dict[str, float]
    """What each process took, 1 for a whole core, while the round ran"""


def paced_engine(speed: float, options: EngineOptions, sink: Sink) -> Engine:
    """Return an engine over a model that keeps an H100's pace, `speed` times as quick."""
    return Engine(paced_model(single_token_words(), speed), options, sink)


def main() -> int:
    """Run the bench; returns the exit status."""
    options = _parser().parse_args()
    words = single_token_words()
    engine_options = EngineOptions(max_num_seqs=256)
    with (
        tempfile.TemporaryDirectory(prefix="gptoss-serving-bench-") as place,
        _server(Path(place), options) as (port, processes),
    ):
        runner = EngineRunner(lambda sink: paced_engine(options.speed, engine_options, sink))
        bench = _Bench(runner, port, processes, words, options.tokens, options.held_every)
        rounds = [[bench.play(num, f"{num}, {turn}") for turn in range(options.rounds + 1)] for num in options.streams]
        runner.engine.stop(0.0)
    _console.print(f"\n{options.tokens} tokens an answer, {options.rounds} rounds, medians\n")
    _console.print(_table([some[1:] for some in rounds]))  # the first warms up
    return 0


@dataclass(frozen=True, slots=True)
class _Bench:
    runner: EngineRunner
    port: int
    processes: dict[str, psutil.Process]
    words: Sequence[int]
    num_tokens: int
    """Of each answer"""
    held_every: int
    """Every n-th request to the server has a grammar, of the engine alone none; 0: none has."""

    def play(self, streams: int, seed: str) -> Served:
        """Play one round of as many requests as streams, each of its own prompt, on the engine and on the server."""
        texts = [encoding().decode(words) for words in make_prompts(self.words, streams, _PROMPT_TOKENS, seed=seed)]
        prompts = [self._prompt(text) for text in texts]
        alone = RoundFigures.of(ENGINE, streams, *self.runner.play(prompts, streams, self.num_tokens))
        bodies = [self._body(text, place) for place, text in enumerate(texts)]
        requests = [post(self.port, "/v1/chat/completions", body) for body in bodies]
        before = self._cpu_s()
        started_s = time.perf_counter()
        gc.disable()
        try:
            replies, wall_s = asyncio.run(ask_all(self.port, requests, streams, _ROUND_LIMIT_S))
        finally:
            gc.enable()
        taken_s = time.perf_counter() - started_s
        cores = {name: (cpu_s - before[name]) / taken_s for name, cpu_s in self._cpu_s().items()}
        whole = RoundFigures.of(OURS, streams, replies, wall_s)
        _console.print(f"{streams} streams: engine {alone.tokens_per_s:,.0f}, whole {whole.tokens_per_s:,.0f} tokens/s")
        return Served(alone, whole, cores)

    def _prompt(self, text: str) -> list[int]:
        answer = httpx.post(f"http://127.0.0.1:{self.port}/tokenize", json=_chat(text), trust_env=False)
        tokens: list[int] = answer.raise_for_status().json()["tokens"]
        return tokens

    def _body(self, text: str, place: int) -> dict[str, object]:
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        is_held = self.held_every and not place % self.held_every
        held: dict[str, object] = {"structured_outputs": {"regex": _WORDS}} if is_held else {}
        return _chat(text) | streamed | held | {"max_tokens": self.num_tokens, "ignore_eos": True}

    def _cpu_s(self) -> dict[str, float]:
        times = {name: process.cpu_times() for name, process in self.processes.items()}
        return {name: spent.user + spent.system for name, spent in times.items()}


def _chat(text: str) -> dict[str, object]:
    return {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": text}]}


@contextmanager
def _server(place: Path, options: argparse.Namespace) -> Iterator[tuple[int, dict[str, psutil.Process]]]:
    """Serve the paced model; yields the port and the processes by name."""
    repository = place / "model_repository"
    for model in ("preprocess", "gpt_oss_demo", "gpt_oss_demo_chat"):
        shutil.copytree(_ROOT / "model_repository" / model, repository / model)
    file = repository / "gpt_oss_demo" / "1" / "model.py"
    file.write_text(_MODEL_FILE.format(root=str(_ROOT), speed=options.speed), encoding="utf-8")
    variables = {"GPTOSS_SERVER__MODEL_REPOSITORY": str(repository), "GPTOSS_PROFILES__BALANCED__MAX_NUM_SEQS": "256"}
    if options.responses_per_s:
        variables["GPTOSS_ENGINE__MAX_RESPONSES_PER_S"] = str(options.responses_per_s)
    run_dir = place / "run"
    with own_server(run_dir, model="demo", variables=variables) as addresses:
        port = int(addresses.api.removesuffix("/v1").rpartition(":")[2])
        yield port, {"client": psutil.Process(), **_processes(RunDirectory(run_dir))}


def _processes(run_dir: RunDirectory) -> dict[str, psutil.Process]:
    """Return what serves, by name: the processes that its state tells of, and tritonserver's stubs."""
    state = run_dir.read_state()
    found = {one.name: psutil.Process(one.pid) for one in (state.processes if state else ())}
    for stub in found[TRITON].children(recursive=True):
        command = " ".join(stub.cmdline())
        if "triton_python_backend_stub" in command:
            found["preprocess" if "/preprocess/" in command else "generation"] = stub
    return found


def _table(rounds: Sequence[Sequence[Served]]) -> str:
    names = [name for name in rounds[0][0].cores if name != "client"]
    rows = [("streams", "engine tokens/s", "whole tokens/s", "whole ÷ engine", "TTFT ms, engine", "whole", *names)]
    for some in rounds:
        alone, whole = median(one.alone.tokens_per_s for one in some), median(one.whole.tokens_per_s for one in some)
        rows.append(
            (
                str(some[0].alone.concurrency),
                f"{alone:,.0f}",
                f"{whole:,.0f}",
                f"{median(one.whole.tokens_per_s / one.alone.tokens_per_s for one in some):.3f}",
                f"{median(one.alone.ttft_s for one in some) * 1000:,.1f}",
                f"{median(one.whole.ttft_s for one in some) * 1000:,.1f}",
                *(f"{median(one.cores[name] for one in some):.2f} cores" for name in names),
            )
        )
    return markdown(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 8, 32, 128, 256])
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms up")
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--speed", type=float, default=1.0, help="times as quick as the first measurement on an H100")
    parser.add_argument("--held-every", type=int, default=0, help="every n-th request is held by a grammar; 0: none")
    parser.add_argument("--responses-per-s", type=float, help="as engine.max_responses_per_s; default: that one's")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
