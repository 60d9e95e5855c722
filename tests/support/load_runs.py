"""The circumstances of a made-up run of the load test."""

from __future__ import annotations

from load.report.figures import RunFacts

STARTED_S = 1_000_000.0


def facts(duration_s: float = 10.0) -> RunFacts:
    return RunFacts(
        host="http://here",
        model="gpt-oss-demo",
        num_users=8,
        rate=None,
        think_s=1.0,
        max_tokens=64,
        seed=0,
        started_s=STARTED_S,
        duration_s=duration_s,
    )
