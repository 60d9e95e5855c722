"""A server under mixed load for long: does what it holds stay flat?

Stage: around all.
Owns: the server it starts, the run, the verdict, the exit status.
Does not know: what is asked (soak_traffic), what is looked at (soak_samples).

    python -m load.soak --duration 10m

Ends with 1 where memory, file descriptors or the engine's blocks grow, where the server died, something is left when
all clients have gone, or more than 0.5% of the requests failed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses, of_each_replica
from gptoss_client.run_state import RunDirectory
from load.own_server import own_server
from load.soak_samples import Sample, held, render, take_sample, trends
from load.soak_traffic import User

_NUM_SAMPLES: Final = 120
_LEAST_PERIOD_S: Final = 1.0
_SETTLE_S: Final = 10.0
_MAX_FAILED_SHARE: Final = 0.005
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}
# Caches take what they may and then reuse it: small ones are full long before the second half, which is judged.
_SMALL_CACHES: Final = """
server: {response_cache_bytes: 4194304, log_max_bytes: 1048576}
engine: {kv_cache_bytes: 50331648}
adapter: {responses_max_bytes: 16777216}
"""


def seconds(text: str) -> float:
    """Read a duration as 90s, 10m or 2h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: 90s, 10m or 2h")
    return float(found[1]) * _UNITS_S[found[2]]


def main() -> int:
    """Run and return the exit status."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--duration", type=seconds, default="10m", help="90s, 10m, 2h (default: %(default)s)")
    parser.add_argument("--users", type=int, default=8, help="how many ask at once (default: %(default)s)")
    parser.add_argument("--model", default="demo", help="demo, 20b or 120b (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gptoss-soak-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(_SMALL_CACHES, encoding="utf-8")
        run = RunDirectory(Path(folder) / "run")
        with own_server(run.root, model=options.model, config=config):
            return _soak(run, options.duration, options.users)


def _soak(run: RunDirectory, duration_s: float, num_users: int) -> int:
    replicas = [Addresses.of(one) for one in of_each_replica(load_settings(config=run.config, environ={}))]
    metrics_urls = [addresses.metrics for addresses in replicas]
    stop = threading.Event()
    before = take_sample(run, metrics_urls)
    users = [User(replicas[0].api.removesuffix("/v1"), number, stop) for number in range(num_users)]
    try:
        samples = _watch(run, metrics_urls, duration_s)
    finally:
        stop.set()
        for user in users:
            user.join()
    time.sleep(_SETTLE_S)
    after = take_sample(run, metrics_urls)
    return _judge(samples, before, after, users)


def _watch(run: RunDirectory, metrics_urls: Sequence[str], duration_s: float) -> list[Sample]:
    samples: list[Sample] = []
    period_s = max(_LEAST_PERIOD_S, duration_s / _NUM_SAMPLES)
    deadline = time.monotonic() + duration_s
    while time.monotonic() < deadline:
        time.sleep(period_s)
        samples.append(take_sample(run, metrics_urls))
    return samples


def _judge(samples: list[Sample], before: Sample, after: Sample, users: list[User]) -> int:
    counts = sum((user.counts for user in users), Counter[str]())
    found = trends(samples)
    faults = [f"{trend.name} grows" for trend in found if not trend.is_flat]
    faults += [f"{name}: {value:g} left when all had gone" for name, value in held(after).items() if value]
    if counts["failed"] > _MAX_FAILED_SHARE * counts.total():
        faults.append(f"{counts['failed']} of {counts.total()} requests failed")
    _print(f"{counts.total()} requests: {', '.join(f'{kind} {count}' for kind, count in sorted(counts.items()))}")
    _print(f"{(samples[-1].at_s - before.at_s) / 60:.1f} minutes; RSS in MiB; the slope is the second half's\n")
    _print(render(found))
    for failure in sorted({user.last_failure for user in users} - {""}):
        _print(f"failed: {failure}")
    _print("\n" + ("NOT FLAT: " + "; ".join(faults) if faults else "flat"))
    return 1 if faults else 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
