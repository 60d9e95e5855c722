"""`make load`: people chat with a server, and a report says whether it kept its promises.

Stage: around all.
Owns: the options, the server it starts where none is named, the exit status.
Does not know: what people do (users), what the report holds (report).

    python -m load.run --model demo --users 200 --duration 5m
    python -m load.run --url http://127.0.0.1:8000 --users 20 --duration 20s --web

Ends with 1 where a service target was broken. What follows `--` goes to locust: kinds of users, --think-s …
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_client.errors import INTERRUPTED
from load.locust_process import PROJECT, LoadOrder, Server
from load.own_server import own_server
from load.soak import seconds

_REPORTS: Final = PROJECT / ".run" / "load"


def main() -> int:
    """Run and return the exit status."""
    parser = argument_parser("load", (__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=8, help="how many people (default: %(default)s)")
    parser.add_argument("--duration", type=seconds, default="1m", help="20s, 5m, 2h (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="messages a second in all, by a Poisson process")
    parser.add_argument("--web", action="store_true", help="with locust's page, on http://localhost:8089")
    options = parser.parse_args()
    out = options.out or new_folder("run")
    with server_of(options, out) as server:
        order = LoadOrder(
            server, options.users, options.duration, out, options.seed, options.rate, tuple(options.locust)
        )
        try:
            return order.run(web=options.web)
        except KeyboardInterrupt:
            return INTERRUPTED


def argument_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with what every command here takes."""
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--model", default="demo", help="demo, 20b or 120b (default: %(default)s)")
    parser.add_argument("--profile", help="of the server that is started")
    parser.add_argument("--url", help="a running server, in place of one that is started")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the report's folder (default: a new one in .run/load)")
    parser.add_argument("locust", nargs="*", help="further arguments of locust, after --")
    return parser


@contextmanager
def server_of(options: argparse.Namespace, out: Path) -> Iterator[Server]:
    """Provide the server that the options name; one that is started ends with the block."""
    if options.url:
        if options.profile:
            sys.exit("error: --profile is for a server that is started here; the one at --url has its own")
        name = MODELS_BY_SHORT.get(options.model)
        yield Server(options.url, name.openai if name else options.model)
        return
    if options.model not in MODELS_BY_SHORT:
        sys.exit(f"error: --model must be one of {', '.join(MODELS_BY_SHORT)}, not {options.model!r}")
    try:
        with own_server(out / "server", model=options.model, profile=options.profile) as addresses:
            url = addresses.api.removesuffix("/v1")
            yield Server(url, MODELS_BY_SHORT[options.model].openai, addresses.triton_grpc)
    except subprocess.CalledProcessError:
        sys.exit(2)  # gptoss has said why


def new_folder(kind: str) -> Path:
    """Return where a report goes that nobody has placed."""
    return _REPORTS / f"{datetime.now():%Y%m%d-%H%M%S}-{kind}"


if __name__ == "__main__":
    sys.exit(main())
