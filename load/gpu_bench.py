"""How near to the memory's limit a GPU decodes, and how soon a prompt is computed: random weights at full size.

Stage: none of a request's; stage 5 alone, without the engine's loop, Triton and HTTP.
Owns: the command, its tables and its page. Does not know: how anything is timed (bench.gpu_steps).

    .venv/bin/python -m load.gpu_bench --out FOLDER --transformers
    .venv/bin/python -m load.gpu_bench --no-graphs
    .venv/bin/python -m load.gpu_bench --dependent-launch
    .venv/bin/python -m load.gpu_bench --top-p 0.9
    .venv/bin/python -m load.gpu_bench --held-every 8
    .venv/bin/python -m load.gpu_bench --kv-cache-dtype fp8
    .venv/bin/python -m load.gpu_bench --dense-weights int8
    .venv/bin/python -m load.gpu_bench --device cpu --shapes tiny --batches 1 4 --contexts 64 --prompts 64
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import torch

from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.computing import EIGHT_BIT
from gptoss_backend.engine.making import make_model
from gptoss_backend.engine.memory import processor_name
from gptoss_backend.engine.operators import has_dependent_launch
from gptoss_backend.engine.precision import FLOAT8, choose_cache_dtype, choose_precision, name_of
from gptoss_backend.engine.shard import Shard
from gptoss_client.console import plain_console
from load.bench.choosing import Choosing
from load.bench.gpu_steps import DecodeFigures, copy_rate, free, kernel_times, time_decode, time_prompt
from load.bench.random_weights import RandomWeights
from load.report.axes import linear_axis, log_axis, number
from load.report.page import page, section, table_of
from load.report.svg import Series, line_chart
from load.report.tables import Table
from load.report.text import markdown_table

_DOES_NOT_FIT = "does not fit"
_console = plain_console()


@dataclass(slots=True)
class ShapeFigures:
    """What was measured of one shape."""

    name: str
    computed_by: str
    decodes: list[DecodeFigures] = field(default_factory=list)
    prompts: list[tuple[int, float | None]] = field(default_factory=list)
    """Length and seconds to the first token"""
    references: list[tuple[DecodeFigures, float | None]] = field(default_factory=list)
    """Seconds of a step of transformers', beside ours"""

    def tables(self) -> dict[str, Table]:
        """Return all as tables, by title."""
        header = ("batch", "context", "step", "tokens/s", "of the limit")
        prompts = tuple((f"{length:,}", _milliseconds(seconds)) for length, seconds in self.prompts)
        tables = {
            "decode steps": Table(header, tuple(_decode_cells(figures) for figures in self.decodes)),
            "prompts": Table(("prompt", "first token"), prompts),
        }
        if self.references:
            rows = tuple(_reference_cells(ours, theirs) for ours, theirs in self.references)
            header = ("batch", "context", "step", "transformers' step", "times as fast")
            tables["beside transformers"] = Table(header, rows)
        return tables

    def charts(self) -> list[str]:
        """Return throughput and share of the limit by batch, a line for each context."""
        done = [figures for figures in self.decodes if figures.step_s is not None]
        contexts = sorted({figures.context for figures in done})
        if len({figures.batch for figures in done}) < 2:
            return []
        x = log_axis("rows", min(figures.batch for figures in done), max(figures.batch for figures in done), number)
        rates = [figures.tokens_per_s or 0.0 for figures in done]
        shares = [figures.share or 0.0 for figures in done]
        charts = []
        for title, values, tell in (
            ("Tokens a second", rates, number),
            ("Share of the memory's limit", shares, _share),
        ):
            lines = [
                Series(
                    f"context {context:,}",
                    [(one.batch, value) for one, value in zip(done, values, strict=True) if one.context == context],
                    f"s{index}",
                )
                for index, context in enumerate(contexts, start=1)
            ]
            charts.append(line_chart(f"{self.name}: {title}", x, linear_axis("", max(values), tell), lines))
        return charts


def main() -> int:
    """Run the bench; returns the exit status."""
    options = _parser().parse_args()
    device = torch.device(options.device)
    precision = choose_precision("auto", device)
    rate = copy_rate(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    dtype = name_of(precision.dtype)
    cache_dtype = choose_cache_dtype(options.kv_cache_dtype, precision.dtype, device)
    formats = f"{dtype}, FP8 KV cache" if cache_dtype == FLOAT8 else dtype
    where = f"{name}; torch {torch.__version__}; {formats}; a copy moves {rate / 1e9:,.0f} GB/s"
    _console.print(where)
    shapes = [_measure(shape, options, device, precision.dtype, rate) for shape in options.shapes]
    if options.out is not None:
        _console.print(f"page: {_write_page(options.out, where, shapes)}")
    return 0


def _measure(
    name: str, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, rate: float
) -> ShapeFigures:
    config = config_of(SHAPES[name])
    eight_bit = options.dense_weights == "int8"
    weights = RandomWeights(config, device, dtype, eight_bit=eight_bit).model()
    cache_dtype = choose_cache_dtype(options.kv_cache_dtype, dtype, device)
    dependent_launch = options.graphs and options.dependent_launch and has_dependent_launch(device)
    model = make_model(
        Shard.of_all(config),
        weights,
        cuda_graphs=options.graphs,
        dependent_launch=dependent_launch,
        cache_dtype=cache_dtype,
    )
    choosing = Choosing(options.top_p, options.held_every)
    ways = {
        EIGHT_BIT: eight_bit,
        "dependent launch": dependent_launch,
        f"top-p {choosing.top_p:g}": model.can_draw and choosing.top_p < 1.0,
        f"a mask for one row in {choosing.held_every}": model.runs_ahead and choosing.held_every > 0,
    }
    figures = ShapeFigures(name, ", ".join([type(model).__name__, *(way for way, is_on in ways.items() if is_on)]))
    for context in options.contexts:
        for batch in options.batches:
            figures.decodes.append(time_decode(model, batch, context, rate, eight_bit=eight_bit, choosing=choosing))
            _console.print(f"{name}: {batch} rows at {context:,}: {_milliseconds(figures.decodes[-1].step_s)} a step")
    for length in options.prompts:
        figures.prompts.append((length, time_prompt(model, length)))
        _console.print(f"{name}: a prompt of {length:,}: {_milliseconds(figures.prompts[-1][1])}")
    if options.profile:
        _console.print(kernel_times(model, options.batches[0], options.contexts[0], choosing))
    del model, weights
    free(device)
    if options.transformers:
        # transformers takes a second to load, and only this needs it
        from load.bench.gpu_reference import time_reference

        for ours in [decode for decode in figures.decodes if decode.context == options.contexts[0]]:
            theirs = time_reference(SHAPES[name], ours.batch, ours.context, device, dtype)
            figures.references.append((ours, theirs))
            free(device)
    for title, table in figures.tables().items():
        _console.print(f"\n{name}, {title} ({figures.computed_by})\n\n{markdown_table(table)}")
    return figures


def _write_page(folder: Path, where: str, shapes: Sequence[ShapeFigures]) -> Path:
    parts = ["<h1>Decode steps against the memory's limit</h1>", f"<p>{escape(where)}</p>"]
    for figures in shapes:
        pictures = f'<div class="charts">\n{chr(10).join(figures.charts())}\n</div>'
        parts.append(section(f"{figures.name}, {figures.computed_by}", pictures))
        for title, table in figures.tables().items():
            parts.append(section(f"{figures.name}, {title}", table_of(table, numbers=True)))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "gpu_bench.html"
    path.write_text(page("GPU bench", parts), encoding="utf-8")
    return path


def _decode_cells(figures: DecodeFigures) -> tuple[str, ...]:
    rate, share = figures.tokens_per_s, figures.share
    if rate is None or share is None:
        return (str(figures.batch), f"{figures.context:,}", _DOES_NOT_FIT, "", "")
    return (str(figures.batch), f"{figures.context:,}", _milliseconds(figures.step_s), f"{rate:,.0f}", _share(share))


def _reference_cells(ours: DecodeFigures, theirs: float | None) -> tuple[str, ...]:
    ratio = f"{theirs / ours.step_s:.1f}" if theirs and ours.step_s else ""
    place = (str(ours.batch), f"{ours.context:,}")
    return (*place, _milliseconds(ours.step_s), _milliseconds(theirs), ratio)


def _milliseconds(seconds: float | None) -> str:
    return _DOES_NOT_FIT if seconds is None else f"{seconds * 1e3:.2f} ms"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to compute: cuda or cpu")
    parser.add_argument("--shapes", nargs="+", default=["20b", "120b"], choices=sorted(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128, 256])
    parser.add_argument("--contexts", nargs="+", type=int, default=[1024, 8192])
    parser.add_argument("--prompts", nargs="+", type=int, default=[256, 2048, 16384], help="lengths to time")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="launch each kernel from the host")
    parser.add_argument(
        "--dependent-launch",
        action="store_true",
        help="let a kernel of a recorded decode step begin while the one before it ends, from Hopper on",
    )
    parser.add_argument("--kv-cache-dtype", default="auto", choices=["auto", "fp8"], help="of keys and values")
    parser.add_argument(
        "--dense-weights",
        choices=("auto", "int8"),
        default="auto",
        help="int8: attention and unembedding so",
    )
    parser.add_argument("--top-p", type=float, default=1.0, help="by which tokens of decode steps are drawn")
    parser.add_argument("--held-every", type=int, default=0, help="every n-th row is held by a grammar's mask; 0: none")
    parser.add_argument("--transformers", action="store_true", help="time its generate, too, where it fits")
    parser.add_argument("--profile", action="store_true", help="print where the time of a few steps goes")
    parser.add_argument("--out", type=Path, help="write gpu_bench.html with plots there")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
