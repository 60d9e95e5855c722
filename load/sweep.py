"""`make load-sweep`: the highest rate of messages at which a server still keeps its promises.

Stage: around all.
Owns: the steps, what counts as keeping up, the report on them.
Does not know: what a step does (locust_process), how one is judged (report).

    python -m load.sweep --model demo --step 20s --budget 10m

The rate doubles until a step breaks a target or falls behind, and then halves the gap between the last that held and
the first that did not, on a logarithmic scale, until they are within a tenth of each other or the time is up.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from load.locust_process import LoadOrder, Server
from load.report.files import read_summary
from load.report.sweep import SweepStep, write_sweep
from load.run import argument_parser, new_folder, server_of
from load.soak import seconds

_CLOSE_ENOUGH: Final = 1.1
_DRAIN_S: Final = 10.0
"""What a step takes beside its length: locust's start, and the chats under way at its end."""
_LEAST_RATE: Final = 0.1
_MOST_RATE: Final = 1000.0

TakeStep = Callable[[float, int], SweepStep]
"""Given a rate and the step's number, from 0."""


def main() -> int:
    """Sweep, and return 0 where some rate held."""
    parser = argument_parser("load-sweep", (__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=256, help="chats at once at most (default: %(default)s)")
    parser.add_argument("--step", type=seconds, default="20s", help="length of a step (default: %(default)s)")
    parser.add_argument("--budget", type=seconds, default="10m", help="no step begins later (default: %(default)s)")
    parser.add_argument("--first", type=float, default=1.0, help="the first step's rate (default: %(default)s)")
    options = parser.parse_args()
    out = options.out or new_folder("sweep")
    with server_of(options, out) as server:

        def take(rate: float, number: int) -> SweepStep:
            # other prompts in each step, else one would find the last one's in the caches
            seed = options.seed + number
            folder = out / f"step-{number + 1:02d}"
            order = LoadOrder(server, options.users, options.step, folder, seed, rate, tuple(options.locust))
            return _take(order, rate)

        steps = sweep(take, first=options.first, step_s=options.step, budget_s=options.budget)
    return _conclude(steps, server, out)


def sweep(
    take: TakeStep, *, first: float, step_s: float, budget_s: float, now: Callable[[], float] = time.monotonic
) -> list[SweepStep]:
    """Take steps until the limit is found or the time is up. Return them in the order they were taken."""
    deadline = now() + budget_s - step_s - _DRAIN_S
    steps: list[SweepStep] = []
    rate: float | None = first
    while rate is not None and (not steps or now() < deadline):
        try:
            steps.append(take(rate, len(steps)))
        except KeyboardInterrupt:
            break  # what was found so far is told
        rate = next_rate(steps)
    return steps


def next_rate(steps: Sequence[SweepStep]) -> float | None:
    """Return the rate that tells most; None where the limit is known well enough."""
    broken = min((step.rate for step in steps if not step.holds), default=None)
    best = highest_held(steps)
    if broken is None:
        return None if best is None or best.rate >= _MOST_RATE else min(2 * best.rate, _MOST_RATE)
    if best is None:
        return broken / 2 if broken > _LEAST_RATE else None
    return math.sqrt(best.rate * broken) if broken / best.rate > _CLOSE_ENOUGH else None


def highest_held(steps: Sequence[SweepStep]) -> SweepStep | None:
    """Return the fastest step below all that did not hold; None where there is none.

    One that held above one that did not was luck: promises end at the lower.
    """
    broken = min((step.rate for step in steps if not step.holds), default=math.inf)
    return max((step for step in steps if step.holds and step.rate < broken), key=lambda s: s.rate, default=None)


def _take(order: LoadOrder, rate: float) -> SweepStep:
    status = order.run(log=order.out / "locust.log")
    try:
        step = SweepStep.of(rate, read_summary(order.out))
    except OSError:
        sys.exit(f"error: locust ended with {status} and without a report: see {order.out / 'locust.log'}")
    sys.stdout.write(f"{step.sentence}\n")
    sys.stdout.flush()
    return step


def _conclude(steps: Sequence[SweepStep], server: Server, out: Path) -> int:
    best = highest_held(steps)
    page = write_sweep(out, steps, best, server.url)
    found = "no rate held" if best is None else f"the highest rate that held: {best.rate:.3g} messages a second"
    sys.stdout.write(f"{found}\nreport: {page}\n")
    return 0 if best is not None else 1


if __name__ == "__main__":
    sys.exit(main())
