"""A comparison: all servers started, then measured turn by turn.

Stage: a run.
Owns: the order of the turns, warming up, playing a disturbed round again.
Does not know: what the servers are, what becomes of the figures.

The turns go round: each server plays one round of one concurrency, then the next server the same prompts. So noise that
lasts longer than a turn hits all alike. Only the server whose turn it is runs.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

from load.bench.contestants import Contestant
from load.bench.figures import Reply, RoundFigures
from load.bench.process import CpuWatch, ServerProcess, free_port
from load.bench.stream import PeerError, ask_all, post
from load.bench.workload import Workload, make_prompts

logger = logging.getLogger(__name__)

_ROUND_LIMIT_S: Final = 180.0


class Player(Protocol):
    """A running server."""

    name: str
    process: ServerProcess

    def play(self, prompts: Sequence[list[int]], concurrency: int, num_new_tokens: int) -> tuple[list[Reply], float]:
        """Run the prompts, `concurrency` at a time; returns the replies and the seconds until the last token."""


class HttpPlayer:
    """A server asked over HTTP."""

    def __init__(self, contestant: Contestant, logs: Path) -> None:
        """Start it; blocks until it is ready. Raises PeerError."""
        self.name = contestant.name
        self._contestant = contestant
        self._port = free_port()
        log = logs / f"{contestant.name}.log".replace(", ", "-").replace(" ", "-")
        command = contestant.command(self._port, logs)
        self.process = ServerProcess(contestant.name, command, log, variables=contestant.variables())
        try:
            self.process.wait_ready(f"http://127.0.0.1:{self._port}/health", contestant.start_timeout_s)
        except BaseException:
            self.process.end()
            raise

    def play(self, prompts: Sequence[list[int]], concurrency: int, num_new_tokens: int) -> tuple[list[Reply], float]:
        """As Player says. Raises PeerError, also where an answer is not as long as asked for."""
        asked = [post(self._port, self._contestant.path, self._contestant.body(p, num_new_tokens)) for p in prompts]
        gc.collect()
        gc.disable()
        try:
            replies, wall_s = asyncio.run(ask_all(self._port, asked, concurrency, _ROUND_LIMIT_S))
        finally:
            gc.enable()
        wrong = {reply.num_tokens for reply in replies} - {num_new_tokens}
        if wrong:
            raise PeerError(f"{self.name} answered with {sorted(wrong)} tokens, not {num_new_tokens}")
        return replies, wall_s


class Match:
    """The rounds of several players."""

    def __init__(
        self, players: Sequence[Player], words: Sequence[int], *, retries: int, quiet_share: float, limit_s: float
    ) -> None:
        """quiet_share: a round in which others took more of the CPU is played again, up to `retries` times.

        limit_s: no new round begins later than so many seconds from now.
        """
        self._players = list(players)
        self._words = words
        self._retries = retries
        self._quiet_share = quiet_share
        self._ends_s = monotonic() + limit_s
        self.rounds: list[RoundFigures] = []
        self.failures: dict[str, str] = {}
        """Servers that dropped out, and why."""

    def warm_up(self, concurrencies: Sequence[int]) -> None:
        """Let each server meet every concurrency once, unmeasured."""
        for player in list(self._players):
            for concurrency in concurrencies:
                self._turn(player, Workload(concurrency), "warming up")

    def play(self, concurrencies: Sequence[int], num_rounds: int) -> None:
        """Play the rounds; `rounds` grows by each."""
        for number in range(num_rounds):
            for concurrency in concurrencies:
                # whoever comes first finds the machine as the last round left it: not always the same one
                shift = number % len(self._players) if self._players else 0
                for player in self._players[shift:] + self._players[:shift]:
                    self._quiet_turn(player, Workload(concurrency), number)

    def _quiet_turn(self, player: Player, work: Workload, number: int) -> None:
        attempts: list[RoundFigures] = []
        while monotonic() < self._ends_s and len(attempts) <= self._retries:
            # another attempt has other prompts: nobody shall find them cached
            figures = self._turn(player, work, f"round {number} of {work.concurrency}, attempt {len(attempts)}")
            if figures is None:
                return
            attempts.append(figures)
            if figures.others_share <= self._quiet_share:
                break
        if attempts:
            best = min(attempts, key=lambda figures: figures.others_share)
            self.rounds.append(best)
            logger.info(
                "round %d, %d streams, %s: %.0f tokens/s, TTFT %.1f ms, others %.0f%%, attempts %d",
                *(number + 1, work.concurrency, player.name, best.tokens_per_s, best.ttft_s * 1000),
                *(best.others_share * 100, len(attempts)),
            )

    def _turn(self, player: Player, work: Workload, seed: str) -> RoundFigures | None:
        """Measure one round; None where the server failed, which then takes no further part."""
        prompts = make_prompts(self._words, work.num_requests, work.num_prompt_tokens, seed=seed)
        wake_up = make_prompts(self._words, 1, work.num_prompt_tokens, seed=f"before {seed}")
        player.process.resume()
        try:
            player.play(wake_up, 1, 4)
            watch = CpuWatch(player.process.cpu_s)
            replies, wall_s = player.play(prompts, work.concurrency, work.num_new_tokens)
            return RoundFigures.of(player.name, work.concurrency, replies, wall_s, watch.others_share())
        except PeerError as error:
            logger.warning("%s dropped out: %s", player.name, error)
            self.failures[player.name] = str(error)
            self._players = [other for other in self._players if other is not player]
            return None
        finally:
            player.process.pause()
