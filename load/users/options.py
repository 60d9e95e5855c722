"""Our part of locust's command line.

Stage: before 1 route.
Owns: the options and their defaults.
Does not know: what is made of them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

STOP_TIMEOUT_S: Final = 60
"""How long chats may run on after the run's end. locust's own default, 0, would drop the slowest from the figures."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    model: str | None
    max_tokens: int
    seed: int
    repeat_share: float
    document_words: int
    think_s: float
    rate: float | None
    triton_grpc: str | None
    api_key: str | None
    out: Path | None

    @classmethod
    def of(cls, environment: Environment) -> Options:
        """Take them from what locust parsed."""
        return cls(**{option.name: getattr(environment.parsed_options, option.name) for option in fields(cls)})


def add_options(parser: LocustArgumentParser) -> None:
    """Add our options to locust's."""
    group = parser.add_argument_group("Chat options")
    group.add_argument("--model", help="Model to ask for. Default: the first that /v1/models lists")
    group.add_argument("--max-tokens", type=int, default=128, help="Longest answer, in tokens. Default: 128")
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        help="Of prompts and arrivals; a new one on a server whose caches know the last's",
    )
    group.add_argument(
        "--repeat-share", type=float, default=0.7, help="Share of first messages that others ask too. Default: 0.7"
    )
    group.add_argument("--document-words", type=int, default=1200, help="Length of a document. Default: 1200")
    group.add_argument(
        "--think-s", type=float, default=15.0, help="Mean seconds between a user's messages, exponential. Default: 15"
    )
    group.add_argument(
        "--rate",
        type=_positive,
        help="Messages a second in all, a Poisson process whatever the server does; users then only answer to it",
    )
    group.add_argument("--triton-grpc", metavar="HOST:PORT", help="Triton's gRPC, for users who speak to the ensemble")
    # not of the group: only the parser's own take what keeps an option off the web page
    parser.add_argument("--api-key", env_var="OPENAI_API_KEY", include_in_web_ui=False, help="Where one is asked for")
    parser.add_argument("--out", type=Path, metavar="DIR", include_in_web_ui=False, help="Write the report here")
    parser.set_defaults(stop_timeout=str(STOP_TIMEOUT_S))


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return number
