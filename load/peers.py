"""Our server beside others on this machine: the same checkpoint, the same prompts, the same client.

Stage: none of a request's; it starts servers and asks them.
Owns: the command line, what is printed and written.
Does not know: how a server is run, asked or timed.

    python load/peers.py setup vllm            # its own environment in .peers, once; also: llama, transformers
    python load/peers.py run --checkpoint tiny --concurrency 1 8 32 --rounds 5 --json figures.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gptoss_backend.demo.random_checkpoint import ExpertFormat
from load.bench.checkpoints import NAMES, checkpoint
from load.bench.contestants import CONTESTANTS
from load.bench.engine_runner import EngineProcess
from load.bench.environments import DEFAULT_TORCH, PEERS, is_set_up, set_up
from load.bench.environments import NAMES as ENVIRONMENTS
from load.bench.figures import ENGINE, ratio_table, server_table, summarize
from load.bench.match import HttpPlayer, Match, Player
from load.bench.process import prioritize
from load.bench.stream import PeerError
from load.bench.tokenizer import single_token_words

logger = logging.getLogger("peers")


def main() -> int:
    """Run the command; returns the exit status: 1 where a server did not take part to the end."""
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # by way of ending the servers
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.command == "setup":
        for name in options.names:
            set_up(name, torch=options.torch, jobs=options.jobs)
        return 0
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    started_s = time.monotonic()
    folder = checkpoint(options.checkpoint, options.experts)
    words = single_token_words()
    logs = PEERS / "logs" / folder.name
    failures: dict[str, str] = {}
    with ExitStack() as running:
        players = _start(options.servers, folder, logs, running, failures)
        match = Match(
            players,
            words,
            retries=options.retries,
            quiet_share=options.quiet_share,
            limit_s=options.limit_s - (time.monotonic() - started_s),
        )
        if options.nice:
            prioritize(psutil.Process(), options.nice)
            for player in players:
                player.process.prioritize(options.nice)
        match.warm_up(options.concurrency)
        match.play(options.concurrency, options.rounds)
    summaries = summarize(match.rounds)
    failures |= match.failures
    _say(f"{folder.name}: {options.rounds} rounds asked for, medians\n")
    _say(server_table(summaries) + "\n")
    _say(ratio_table(summaries))
    for name, why in failures.items():
        _say(f"\nNot measured, or not to the end: {name}: {why}")
    if options.json:
        record: dict[str, object] = {"checkpoint": folder.name, "failures": failures}
        record |= {"rounds": [asdict(r) for r in match.rounds], "medians": [asdict(s) for s in summaries]}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if failures else 0


def _start(
    names: Sequence[str],
    folder: Path,
    logs: Path,
    running: ExitStack,
    failures: dict[str, str],
) -> list[Player]:
    """Start the servers one after the other, each held still once it is ready; those that do not start are noted."""
    players: list[Player] = []
    for name in names:
        began_s = time.monotonic()
        try:
            player = _player(name, folder, logs)
        except PeerError as error:
            logger.warning("%s did not start: %s", name, error)
            failures[name] = str(error)
            continue
        running.callback(player.process.end)
        player.process.pause()
        players.append(player)
        logger.info("%s: ready after %.0f s", name, time.monotonic() - began_s)
    return players


def _player(name: str, folder: Path, logs: Path) -> Player:
    if name == ENGINE:
        return EngineProcess(ENGINE, folder, logs / "engine.log")
    contestant = CONTESTANTS[name](folder)
    needed = contestant.environment_folder
    if needed is not None and not is_set_up(needed):
        raise PeerError(f"not set up yet: python load/peers.py setup {needed.name}")
    return HttpPlayer(contestant, logs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    setup = commands.add_parser("setup", help="make other servers' environments")
    setup.add_argument("names", nargs="+", choices=ENVIRONMENTS, metavar="NAME", help=", ".join(ENVIRONMENTS))
    setup.add_argument("--torch", default=DEFAULT_TORCH, help="pip's words for a CPU build [default: %(default)s]")
    setup.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilers at a time")
    run = commands.add_parser("run", help="compare")
    run.add_argument("--checkpoint", choices=NAMES, default="tiny")
    run.add_argument("--experts", choices=get_args(ExpertFormat), default="bfloat16", help="how they are stored")
    servers = (*CONTESTANTS, ENGINE)
    run.add_argument("--servers", nargs="+", choices=servers, default=["ours", ENGINE, "vllm", "llama", "transformers"])
    run.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    run.add_argument("--rounds", type=int, default=5)
    run.add_argument("--retries", type=int, default=2, help="of a round that other processes disturbed")
    run.add_argument("--quiet-share", type=float, default=0.1, help="CPU share of others that disturbs a round")
    run.add_argument("--nice", type=int, default=0, help="of the servers and the client; below 0 needs root")
    run.add_argument("--limit-s", type=float, default=1500.0, help="no new round begins later")
    run.add_argument("--json", type=Path, help="write the raw figures here")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
