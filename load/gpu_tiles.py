"""Which tiles the experts' kernels should take on this GPU: each timed at full size, the best beside today's.

Stage: none of a request's; two matmuls of stage 5.
Owns: the tiles that are tried, their table. Does not know: how tiles are chosen in earnest (`kernels/experts.py`).

    .venv/bin/python -m load.gpu_tiles --shapes 20b --tokens 1 4 8 32 256

Each number of tokens is computed both ways, one pair at a time and sorted by expert, so that the table also tells where
sorting begins to pay. A tile that the card has no room for is left out and counted. Each takes a second or two to
compile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch
import triton
from torch import Tensor

from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.experts import ExpertShape
from gptoss_backend.engine.kernels.experts import apply_to_few, apply_to_many
from gptoss_backend.engine.kernels.gemv import TENSOR_CORES, GemvTile, GemvTiles
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile
from gptoss_backend.engine.kernels.norm import norm_and_score
from gptoss_backend.engine.kernels.routing import Routes, pick_experts
from gptoss_backend.engine.precision import choose_precision
from gptoss_client.console import plain_console
from load.bench.random_weights import RandomWeights
from load.report.tables import Table
from load.report.text import markdown_table

_MOST_ONE_BY_ONE = 32
"""Tokens; beyond, one pair at a time reads each expert far too often."""
_console = plain_console()

Tile = GemvTiles | GemmTile
Timer = Callable[[Callable[[], Tensor]], float]
"""Returns the seconds that some work takes."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One tile for one number of tokens."""

    tile: Tile
    seconds: float | None
    """None: it does not compile or run here"""


class ExpertLayer:
    """The experts of one layer with random weights, and what tokens are routed to them."""

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._weights = RandomWeights(config, device, dtype).experts()
        self._shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)
        self._hidden_size, self._device, self._dtype = config.hidden_size, device, dtype
        self.num_experts = config.num_experts
        self.top_k = config.num_experts_per_token

    def work(self, num_tokens: int, tile: Tile) -> Callable[[], Tensor]:
        """Return what computes both matmuls for so many tokens."""
        hidden, routes = self._inputs(num_tokens)
        if isinstance(tile, GemvTiles):
            padded = tile.gate_up.padded(self._hidden_size)
            _, scored = norm_and_score(hidden, None, None, self._weights, padded, tile.gate_up.width)
            return lambda: apply_to_few(scored.rows, routes, self._weights, self._shape, tile)
        return lambda: apply_to_many(hidden, routes, self._weights, self._shape, tile)

    @cache  # noqa: B019 (there is one layer, for as long as the run)
    def _inputs(self, num_tokens: int) -> tuple[Tensor, Routes]:
        """Return tokens and their experts, spread as a router would."""
        generator = torch.Generator(self._device).manual_seed(num_tokens)
        size = (num_tokens, self._hidden_size)
        hidden = torch.randn(size, generator=generator, device=self._device).to(self._dtype)
        scores = torch.randn(num_tokens, self.num_experts, generator=generator, device=self._device)
        return hidden, pick_experts(scores.to(self._dtype), self.top_k)


def main() -> int:
    """Time all; returns the exit status."""
    options = _parser().parse_args()
    device = torch.device("cuda")
    dtype = choose_precision("auto", device).dtype
    _console.print(f"{torch.cuda.get_device_name(device)}; torch {torch.__version__}; Triton {triton.__version__}")
    for name in options.shapes:
        layer = ExpertLayer(config_of(SHAPES[name]), device, dtype)
        for num_tokens in options.tokens:
            timings = time_tiles(layer, num_tokens, _on_gpu)
            _console.print(f"\n{name}, {num_tokens} tokens, both matmuls of a layer\n")
            _console.print(markdown_table(table_of(layer, num_tokens, timings, options.best)))
    return 0


def time_tiles(layer: ExpertLayer, num_tokens: int, timer: Timer) -> list[Timing]:
    """Time every tile that makes sense for so many tokens, the quickest first, those that fail last."""
    tiles: Iterator[Tile] = _gemm_tiles(layer, num_tokens)
    found = [_time(layer, num_tokens, tile, timer) for tile in [*_gemv_tiles(num_tokens), *tiles]]
    return sorted(found, key=lambda timing: (timing.seconds is None, timing.seconds or 0.0))


def table_of(layer: ExpertLayer, num_tokens: int, timings: Sequence[Timing], best: int) -> Table:
    """Return the best of each way, and today's tiles."""
    today = (TENSOR_CORES, GemmTile.for_rows(num_tokens * layer.top_k, layer.num_experts))
    rows = []
    for kind, way in ((GemvTiles, "one by one"), (GemmTile, "sorted")):
        of_kind = [timing for timing in timings if isinstance(timing.tile, kind)]
        for place, timing in enumerate(of_kind):
            if timing.seconds is not None and (place < best or timing.tile in today):
                mark = "today's" if timing.tile in today else ""
                rows.append((way, _named(timing.tile), f"{timing.seconds * 1e6:,.1f} µs", mark))
        if failed := sum(timing.seconds is None for timing in of_kind):
            rows.append((way, f"{failed} did not run", "", ""))
    return Table(("way", "tile", "time", ""), tuple(rows))


def _time(layer: ExpertLayer, num_tokens: int, tile: Tile, timer: Timer) -> Timing:
    try:
        return Timing(tile, timer(layer.work(num_tokens, tile)))
    except (RuntimeError, triton.runtime.errors.TritonError):  # too much shared memory, too many registers
        return Timing(tile, None)


def _gemv_tiles(num_tokens: int) -> Iterator[GemvTiles]:
    if num_tokens > _MOST_ONE_BY_ONE:
        return
    for rows, blocks, parts, num_stages in product((16, 32), (4, 8), (1, 2, 4), (3, 4)):
        if rows * blocks <= 128:  # of a warp's registers
            tile = GemvTile(rows, blocks, parts, num_stages)
            yield GemvTiles(tile, tile)
            if parts < 4:
                yield GemvTiles(tile, GemvTile(rows, blocks, 2 * parts, num_stages))


def _gemm_tiles(layer: ExpertLayer, num_tokens: int) -> Iterator[GemmTile]:
    usual = GemmTile.for_rows(num_tokens * layer.top_k, layer.num_experts).rows
    sizes = sorted({max(16, usual // 2), usual, min(128, usual * 2)})
    for rows, outputs, blocks, num_warps, num_stages in product(sizes, (64, 128), (4, 8), (4, 8), (3, 4)):
        if outputs >= 16 * num_warps:  # a warp multiplies 16 outputs at least
            yield GemmTile(rows, outputs, blocks, num_warps, num_stages)


def _on_gpu(work: Callable[[], Tensor]) -> float:
    milliseconds: float = triton.testing.do_bench(work, warmup=5, rep=25, return_mode="median")
    return milliseconds / 1e3


def _named(tile: Tile) -> str:
    fields = {name: getattr(tile, name) for name in tile.__dataclass_fields__}
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["20b"], choices=sorted(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 8, 32, 256])
    parser.add_argument("--best", type=int, default=5, help="how many of each way are told")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
