"""What this process has measured since the test began.

Stage: behind 7 SSE.
Owns: the records, the run's clock, the server's counters before it.
Does not know: users, what the report looks like.
"""

from __future__ import annotations

import logging
import time
from itertools import count

from load.answer import ChatError
from load.chat_client import ChatClient
from load.records import ChatRecord, Outcome
from load.report.figures import RunFacts
from load.server_stats import ServerStats
from load.users.arrivals import Arrivals
from load.users.options import Options

logger = logging.getLogger(__name__)


class Run:
    """One test. Used by greenlets of one thread."""

    def __init__(self) -> None:
        self.records: list[ChatRecord] = []
        self.user_numbers = count()
        self.arrivals: Arrivals | None = None
        self.is_over = True
        self.last_words = ""
        self._started_s = self._ended_s = time.time()
        self._cpu_s = time.process_time()
        self._before = ServerStats()

    def start(self, options: Options, worker: int, *, has_users: bool = True) -> None:
        """Forget what was, and let messages come. worker: which of locust's processes this is."""
        self.is_over = False
        self.records.clear()
        self._started_s = self._ended_s = time.time()
        self._cpu_s = time.process_time()
        self.user_numbers = count()
        if options.rate is not None and has_users:
            self.arrivals = Arrivals(options.rate, f"arrivals {options.seed}.{worker}")

    def note_server(self, client: ChatClient) -> None:
        """Note where the server's counters stand."""
        self._before = read_server_stats(client)

    def end(self) -> None:
        """Let no more messages come; those under way may end."""
        self.is_over = True
        self._ended_s = time.time()
        if self.arrivals is not None:
            waiting = self.arrivals.stop()
            self.records += [
                ChatRecord("nobody free", Outcome.CUT_OFF, due_s, self._ended_s - due_s) for due_s in waiting
            ]
            self.arrivals = None

    def facts(self, options: Options, client: ChatClient, host: str, num_users: int) -> RunFacts:
        """Return the run's circumstances. client: of the server that was asked."""
        after = read_server_stats(client)
        duration_s = max(self._ended_s - self._started_s, 1e-3)
        return RunFacts(
            host=host,
            model=options.model or "the server's first",
            num_users=num_users,
            rate=options.rate,
            think_s=options.think_s,
            max_tokens=options.max_tokens,
            seed=options.seed,
            started_s=self._started_s,
            duration_s=duration_s,
            cache_hit_share=after.hit_share_since(self._before),
            weights_per_gpu=after.weights_per_gpu,
            generator_cores=(time.process_time() - self._cpu_s) / (time.time() - self._started_s),
        )


def read_server_stats(client: ChatClient) -> ServerStats:
    """Ask the server for its counters; where that fails they are empty, and the log says why."""
    try:
        document = client.get_json("/stats")
    except ChatError as fault:
        logger.warning("cannot read /stats: %s", fault)
        return ServerStats()
    return ServerStats.of(document) if isinstance(document, dict) else ServerStats()


RUN = Run()
