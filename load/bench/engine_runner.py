"""The engine called directly: no Triton, no HTTP, one process.

Stage: 4 and 5 of a request's way, alone.
Owns: an engine with its requests' times, and the pipe by which another process has rounds played.
Does not know: what is compared with what.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Final

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.engine import Engine, Sink
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from load.bench.figures import Reply
from load.bench.process import ServerProcess
from load.bench.stream import PeerError

READY: Final = "ready"


@dataclass(slots=True)
class _Times:
    sent_s: float
    first_s: float = 0.0
    last_s: float = 0.0
    num_tokens: int = 0


class EngineRunner:
    """An engine, and rounds played on it."""

    def __init__(
        self, make: Callable[[Sink], Engine], mask_of: Callable[[int], TokenMask | None] = lambda _: None
    ) -> None:
        """make: returns the engine that tells a sink. mask_of: returns the grammar of the n-th request."""
        self._mask_of = mask_of
        self._times: dict[str, _Times] = {}  # written by the engine's thread while a request runs
        self._ended: SimpleQueue[str | None] = SimpleQueue()  # None for a request that ended well
        self._numbers = count()
        self.engine = make(self._take)
        self.engine.start()

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        *,
        device: torch.device | None = None,
        placement: PlacementOptions | None = None,
    ) -> EngineRunner:
        """Return one over a checkpoint. device: None: the processor. placement: None: by one process."""
        at = device or torch.device("cpu")
        return cls(lambda sink: Engine.load(folder, options, sink, device=at, placement=placement))

    def play(
        self, prompts: Sequence[list[int]], concurrency: int, num_new_tokens: int | Sequence[int]
    ) -> tuple[list[Reply], float]:
        """Run the prompts, `concurrency` at a time; returns the replies and the seconds until the last token.

        num_new_tokens: of all alike, or of each. Raises PeerError where the engine fails a request.
        """
        self._times.clear()
        started_s = perf_counter()
        lengths = repeat(num_new_tokens, len(prompts)) if isinstance(num_new_tokens, int) else num_new_tokens
        left = zip(prompts, lengths, strict=True)
        for _, (prompt, length) in zip(range(concurrency), left, strict=False):
            self._submit(prompt, length)
        for _ in prompts:
            error = self._ended.get()
            if error is not None:
                raise PeerError(error)
            following = next(left, None)
            if following is not None:
                self._submit(*following)
        times = self._times.values()
        replies = [Reply(t.first_s - t.sent_s, t.last_s - t.sent_s, t.num_tokens) for t in times]
        return replies, max(t.last_s for t in times) - started_s

    def _submit(self, prompt: list[int], num_new_tokens: int) -> None:
        number = next(self._numbers)
        request_id = f"bench-{number}"
        sampling = SamplingParams(max_tokens=num_new_tokens, temperature=0.0, ignore_eos=True)
        self._times[request_id] = _Times(perf_counter())
        self.engine.submit(GenerationRequest(request_id, prompt, sampling, self._mask_of(number)))

    def _take(self, deltas: list[TokenDelta]) -> None:
        now_s = perf_counter()
        for delta in deltas:
            times = self._times[delta.request_id]
            if delta.token_ids:
                times.first_s = times.first_s or now_s
                times.last_s = now_s
                times.num_tokens += len(delta.token_ids)
            if delta.is_last:
                self._ended.put(delta.error)


# --- the same in a process of its own -------------------------------------------------------------------------------


def serve_rounds(runner: EngineRunner) -> None:
    """Play the rounds asked for on standard input, one JSON line each, until it ends; answer on standard output."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        replies, wall_s = runner.play(asked["prompts"], asked["concurrency"], asked["num_new_tokens"])
        times = [(reply.first_token_s, reply.last_token_s, reply.num_tokens) for reply in replies]
        sys.stdout.write(json.dumps({"replies": times, "wall_s": wall_s}) + "\n")
        sys.stdout.flush()


class EngineProcess:
    """The other end of `serve_rounds`."""

    def __init__(self, name: str, folder: Path, log: Path) -> None:
        """Start it; blocks until it is ready. Raises PeerError."""
        script = Path(__file__).resolve().parents[1] / "engine_bench.py"
        command = (sys.executable, str(script), "worker", "--folder", str(folder))
        self.name = name
        self.process = ServerProcess(name, command, log, variables={}, pipes=True)
        try:
            started = self._read() == READY
        except BaseException:
            self.process.end()
            raise
        if not started:
            raise PeerError(f"{name} did not start: {self.process.last_words()}")

    def play(self, prompts: Sequence[list[int]], concurrency: int, num_new_tokens: int) -> tuple[list[Reply], float]:
        """Have a round played; as `EngineRunner.play`."""
        asked = {"prompts": prompts, "concurrency": concurrency, "num_new_tokens": num_new_tokens}
        stdin = _pipe(self.process.popen.stdin)
        stdin.write(json.dumps(asked).encode() + b"\n")
        stdin.flush()
        answer: dict[str, Any] = json.loads(self._read() or "{}")
        if not answer:
            raise PeerError(f"{self.process.name} died: {self.process.last_words()}")
        return [Reply(first, last, number) for first, last, number in answer["replies"]], answer["wall_s"]

    def _read(self) -> str:
        line: bytes = _pipe(self.process.popen.stdout).readline()
        return line.decode().strip()


def _pipe(pipe: Any) -> Any:  # noqa: ANN401 (subprocess's own types do not know that it was asked for)
    if pipe is None:
        raise subprocess.SubprocessError("started without pipes")
    return pipe
