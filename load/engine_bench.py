"""Our engine called directly in one process, without Triton, the adapter and HTTP.

Stage: none of a request's; stages 4 and 5 alone.
Owns: the command line.
Does not know: how the engine works.

    .venv/bin/python load/engine_bench.py throughput --checkpoint tiny --concurrency 1 8 32 --rounds 5
    .venv/bin/python load/engine_bench.py host-work
    .venv/bin/python load/engine_bench.py second-turn --checkpoint small
    .venv/bin/python load/engine_bench.py speculation --checkpoint small
    .venv/bin/python load/engine_bench.py opening --checkpoint small
    .venv/bin/python load/engine_bench.py idle --streams 32 128 256
    .venv/bin/python load/engine_bench.py head --streams 1 2 4 --rounds 3
    .venv/bin/python load/engine_bench.py spread --folder FOLDER --modes single pipeline tensor --devices 4
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.choice import SINGLE
from gptoss_backend.engine.placement.layout import PIPELINE, TENSOR
from gptoss_backend.engine.speculation import Speculation
from load.bench.checkpoints import NAMES, checkpoint
from load.bench.engine_runner import EngineRunner, serve_rounds
from load.bench.figures import ENGINE, RoundFigures, markdown, server_table, summarize
from load.bench.head import measure_cost, random_head
from load.bench.host_work import measure_host_work
from load.bench.idle import measure_idle
from load.bench.process import CpuWatch
from load.bench.speculation import measure_gain, measure_opening
from load.bench.spread import measure_spread
from load.bench.tokenizer import single_token_words
from load.bench.workload import Workload, make_prompts

_HOST_CONTEXTS: Final = (1024, 16384)
_CONVERSATION_TOKENS: Final = 4000
_QUESTION_TOKENS: Final = 50


def main() -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args()
    if options.command == "throughput":
        _throughput(options)
    elif options.command == "host-work":
        _host_work(options)
    elif options.command == "second-turn":
        _second_turn(options)
    elif options.command == "speculation":
        _speculation(options)
    elif options.command == "opening":
        _opening(options)
    elif options.command == "idle":
        _idle(options)
    elif options.command == "head":
        _head(options)
    elif options.command == "spread":
        _spread(options)
    else:
        serve_rounds(EngineRunner.load(options.folder, EngineOptions(num_threads=options.threads)))
    return 0


def _throughput(options: argparse.Namespace) -> None:
    runner = EngineRunner.load(checkpoint(options.checkpoint), EngineOptions(num_threads=options.threads))
    words = single_token_words()
    rounds = []
    for number in range(options.rounds + 1):  # the first is for warming up
        for concurrency in options.concurrency:
            work = Workload(concurrency)
            seed = f"round {number} of {concurrency} streams"
            prompts = make_prompts(words, work.num_requests, work.num_prompt_tokens, seed=seed)
            watch = CpuWatch()
            replies, wall_s = runner.play(prompts, concurrency, work.num_new_tokens)
            if number:
                rounds.append(RoundFigures.of(ENGINE, concurrency, replies, wall_s, watch.others_share()))
    runner.engine.stop(0.0)
    _say(server_table(summarize(rounds)))


def _host_work(options: argparse.Namespace) -> None:
    config = ModelConfig.from_folder(checkpoint(options.checkpoint))
    rows = [("sequences", "context", "host work, ms a step", "CPU time of it, ms")]
    for context in _HOST_CONTEXTS:
        work = measure_host_work(config, num_sequences=options.sequences, context=context, num_steps=options.steps)
        rows.append((str(options.sequences), f"{context:,}", f"{work.wall_ms:.3f}", f"{work.cpu_ms:.3f}"))
    _say(markdown(rows))


def _second_turn(options: argparse.Namespace) -> None:
    """Ask, then ask again with the first question and its answer in front."""
    runner = EngineRunner.load(checkpoint(options.checkpoint), EngineOptions(num_threads=options.threads))
    words = single_token_words()
    rng = Random("second turn")
    runner.play([rng.choices(words, k=200)], 1, 8)
    first_s, second_s = [], []
    for _ in range(options.rounds):
        opening = rng.choices(words, k=_CONVERSATION_TOKENS)
        first_s.append(runner.play([opening], 1, 64)[0][0].first_token_s)
        # the answer's tokens are among what the engine has cached only if it is quoted as it was: the prompt is enough
        second_s.append(runner.play([opening + rng.choices(words, k=_QUESTION_TOKENS)], 1, 64)[0][0].first_token_s)
    runner.engine.stop(0.0)
    first_ms, second_ms = median(first_s) * 1000, median(second_s) * 1000
    heading = ("conversation", "TTFT ms, first turn", "second turn", "first ÷ second")
    row = (f"{_CONVERSATION_TOKENS:,} tokens", f"{first_ms:.1f}", f"{second_ms:.1f}", f"{first_ms / second_ms:.1f}")
    _say(markdown([heading, row]))


def _speculation(options: argparse.Namespace) -> None:
    speculation = Speculation(options.tokens, max_seqs=max(options.streams))
    rows = [("text", "streams", "tokens/s without", "with", "with ÷ without", "guesses that stood")]
    for gain in measure_gain(checkpoint(options.checkpoint), speculation, options.streams, options.rounds):
        plain, guessed = gain.plain_tokens_per_s, gain.guessed_tokens_per_s
        stood = f"{gain.num_accepted:,} of {gain.num_drafted:,}"
        rows.append(
            (gain.text, str(gain.num_streams), f"{plain:,.0f}", f"{guessed:,.0f}", f"{guessed / plain:.2f}", stood)
        )
    _say(markdown(rows))


def _opening(options: argparse.Namespace) -> None:
    rows = [("prompt", "ms to the first token of the text, without guesses", "with", "with ÷ without")]
    for length, plain_s, guessed_s in measure_opening(checkpoint(options.checkpoint), options.prompts, options.rounds):
        figures = f"{plain_s * 1000:.1f}", f"{guessed_s * 1000:.1f}", f"{guessed_s / plain_s:.2f}"
        rows.append((f"{length:,} tokens", *figures))
    _say(markdown(rows))


def _idle(options: argparse.Namespace) -> None:
    rows = [("streams", "answers", "tokens/s", "device idle")]
    for share in measure_idle(options.streams, options.speed):
        rows.append((str(share.num_streams), share.answers, f"{share.tokens_per_s:,.0f}", f"{share.idle:.1%}"))
    _say(markdown(rows))


def _head(options: argparse.Namespace) -> None:
    folder = checkpoint(options.checkpoint)
    speculation = Speculation(options.tokens, options.max_seqs, str(random_head(folder)))
    rows = [
        ("streams", "tokens/s without", "with", "with ÷ without", "ms a step without", "with", "guesses that stood")
    ]
    for cost in measure_cost(folder, speculation, options.streams, options.rounds, options.threads):
        (plain, guessed), (plain_ms, guessed_ms) = cost.tokens_per_s, cost.step_ms
        rates = (f"{plain:,.0f}", f"{guessed:,.0f}", f"{guessed / plain:.2f}", f"{plain_ms:.2f}", f"{guessed_ms:.2f}")
        rows.append((str(cost.num_streams), *rates, f"{cost.num_accepted:,} of {cost.num_drafted:,}"))
    _say(markdown(rows))


def _spread(options: argparse.Namespace) -> None:
    folder = options.folder or checkpoint(options.checkpoint)
    _say("placement | kernels | streams | tokens/s | TTFT ms | ms a token")
    for rate in measure_spread(folder, options.modes, options.devices, options.streams, options.rounds):
        figures = f"{rate.tokens_per_s:,.0f} | {rate.ttft_ms:,.1f} | {rate.inter_token_ms:,.2f}"
        _say(f"{rate.placement} | {rate.kernels} | {rate.num_streams} | {figures}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    throughput = commands.add_parser("throughput", help="tokens/s, TTFT and inter-token time")
    throughput.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    host = commands.add_parser("host-work", help="time of a decode step without the model")
    host.add_argument("--sequences", type=int, default=256)
    host.add_argument("--steps", type=int, default=300)
    turn = commands.add_parser("second-turn", help="TTFT of a conversation's second turn")
    guess = commands.add_parser("speculation", help="what guessing ahead gains")
    guess.add_argument("--tokens", type=int, default=4, help="of a draft at most")
    guess.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8])
    opening = commands.add_parser("opening", help="what guessing at an answer's opening gains")
    opening.add_argument("--prompts", type=int, nargs="+", default=[20, 100, 400], help="tokens")
    idle = commands.add_parser("idle", help="how long a GPU of an H100's pace would wait between steps")
    idle.add_argument("--streams", type=int, nargs="+", default=[32, 128, 256])
    idle.add_argument("--speed", type=float, default=1.0, help="times as quick as the first measurement on an H100")
    head = commands.add_parser("head", help="what a draft head costs whose guesses never stand")
    head.add_argument("--tokens", type=int, default=4, help="of a draft at most")
    head.add_argument("--max-seqs", type=int, default=2, help="drafts while no more decode")
    head.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4])
    spread = commands.add_parser("spread", help="a model over several cards, steps replayed and not")
    spread.add_argument("--folder", type=Path, help="of a checkpoint [default: the named one]")
    spread.add_argument("--modes", nargs="+", choices=(SINGLE, PIPELINE, TENSOR), default=[PIPELINE, TENSOR])
    spread.add_argument("--devices", type=int, default=2, help="cards; without GPUs processes")
    spread.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    for command in (throughput, host, turn, guess, opening, head, spread):
        command.add_argument("--checkpoint", choices=NAMES, default="tiny")
    for command in (throughput, turn, guess, opening, head, spread):
        command.add_argument("--rounds", type=int, default=5)
    worker = commands.add_parser("worker", help="used by load/peers.py")
    worker.add_argument("--folder", type=Path, required=True)
    for command in (throughput, turn, head, worker):
        command.add_argument("--threads", type=int, help="of the engine [default: all cores but one]")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
