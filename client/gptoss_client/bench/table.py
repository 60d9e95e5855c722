"""The figures of `gptoss bench`, for people and for programs.

Stage: the last of a measurement.
Owns: the table, the bars and the sparklines, the JSON document.
Does not know: how figures are taken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from gptoss_client.bench.measure import Level

_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_BAR_WIDTH: Final = 24
_NUM_BINS: Final = 16
HEADER: Final = "chats  answers  first token p50 / p95   tokens/s each     all"


def row(level: Level) -> str:
    """Return a level's line under HEADER."""
    ttft = f"{_ms(quantile(level.ttft_s, 0.5))} / {_ms(quantile(level.ttft_s, 0.95))}"
    each = _rate(quantile(level.stream_tokens_per_s, 0.5))
    faults = [f"{level.num_errors} errors: {level.first_error}"] if level.num_errors else []
    faults += [f"{level.num_unfinished} not finished in time"] if level.num_unfinished else []
    line = f"{level.concurrency:5}  {level.num_answers:7}  {ttft:>21}   {each:>13}  {level.tokens_per_s:6.0f}"
    return "  ".join([line, *faults])


def plots(levels: Sequence[Level]) -> Iterator[str]:
    """Return the throughput as bars, and how the times to the first token are spread."""
    yield "tokens/s of all chats"
    highest = max((level.tokens_per_s for level in levels), default=0.0)
    for level in levels:
        yield f"{level.concurrency:5}  {bar(level.tokens_per_s, highest):<{_BAR_WIDTH}} {level.tokens_per_s:.0f}"
    times = [time for level in levels for time in level.ttft_s]
    if not times:
        return
    low, high = min(times), max(times)
    yield f"first token, from {_ms(low)} to {_ms(high)}"
    for level in levels:
        yield f"{level.concurrency:5}  {histogram(level.ttft_s, low, high)}"


def as_json(levels: Sequence[Level]) -> str:
    """Return the figures as a document; times in seconds."""
    return json.dumps({"levels": [_document(level) for level in levels]}, indent=2)


def bar(value: float, highest: float) -> str:
    """Return a bar of eighths of a character; the highest value's is the longest."""
    eighths = round(value / highest * _BAR_WIDTH * 8) if highest > 0 else 0
    return _EIGHTHS[8] * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def histogram(values: Sequence[float], low: float, high: float) -> str:
    """Return how many values lie where between low and high, as a line of small bars; an empty place is a space."""
    counts = [0] * _NUM_BINS
    for value in values:
        share = (value - low) / (high - low) if high > low else 0.0
        counts[min(_NUM_BINS - 1, int(share * _NUM_BINS))] += 1
    highest = max(counts)
    return "".join(_SPARKS[math.ceil(count / highest * len(_SPARKS)) - 1] if count else " " for count in counts)


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of the values do not exceed; None of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def _document(level: Level) -> dict[str, Any]:
    return {
        "concurrency": level.concurrency,
        "answers": level.num_answers,
        "errors": level.num_errors,
        "unfinished": level.num_unfinished,
        "first_error": level.first_error,
        "ttft_s": {f"p{share}": quantile(level.ttft_s, share / 100) for share in (50, 95)},
        "stream_tokens_per_s": quantile(level.stream_tokens_per_s, 0.5),
        "tokens_per_s": level.tokens_per_s,
        "tokens": level.num_tokens,
        "elapsed_s": level.elapsed_s,
    }


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _rate(tokens_per_s: float | None) -> str:
    return "-" if tokens_per_s is None else f"{tokens_per_s:.1f}"
