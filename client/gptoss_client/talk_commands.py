"""`gptoss chat`, `gptoss ask` and `gptoss bench`: their options, and the parts they are put together from.

Stage: the edge between a person and the client.
Owns: what each makes of its options; which parts are imported only when they are needed.
Does not know: how a conversation goes on or a measurement is made.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gptoss_backend.model_names import MODEL_ALIAS
from gptoss_backend.open_files import raise_limit
from gptoss_client.command_line import (
    AtProfileOption,
    EffortOption,
    KeyOption,
    MaxTokensOption,
    ModelOption,
    RunDirOption,
    SystemOption,
    UrlOption,
    server_address,
    told_to_person,
)
from gptoss_client.errors import UsageError
from gptoss_client.server_address import ServerAddress

_SILENCE_S: Final = 120.0
"""A stream that sends nothing, not even a comment, for so long is broken."""
_MAX_CONCURRENCY: Final = 1024


def chat(
    *,
    model: ModelOption = MODEL_ALIAS,
    profile: AtProfileOption = None,
    effort: EffortOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    tools: Annotated[bool, typer.Option("--tools", help="Let the model tell the time and calculate.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Talk with a running server; /help lists what can be said besides."""
    from gptoss_client.talk.chat import Chat
    from gptoss_client.talk.conversation import Choices, Conversation
    from gptoss_client.talk.line_input import LineInput
    from gptoss_client.talk.tools import SCHEMAS
    from gptoss_client.talk.view import make_console

    server = server_address(url, api_key, run_dir)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte is no reason to end the talk
    choices = Choices(model, profile, effort, max_tokens, tools=SCHEMAS if tools else None)
    console, lines = make_console(), LineInput()
    notes = console if console.is_terminal else make_console(stderr=True)
    with told_to_person(), _http(server) as http, _client(server) as client:
        talk = Chat(Conversation(choices, system), _streams(http), client, console, notes)
        if lines.is_terminal:
            notes.print(f"{model} at {server.url}; /help for help, Ctrl-D to end", style="dim")
        talk.run(lines)
    raise typer.Exit(1 if talk.has_failed and not lines.is_terminal else 0)


def ask(
    words: Annotated[list[str] | None, typer.Argument(metavar="QUESTION…", help="What is piped in follows it.")] = None,
    *,
    model: ModelOption = MODEL_ALIAS,
    profile: AtProfileOption = None,
    effort: EffortOption = None,
    system: SystemOption = None,
    max_tokens: MaxTokensOption = None,
    json_schema: Annotated[Path | None, typer.Option(help="Hold the answer to the JSON schema in this file.")] = None,
    reasoning: Annotated[bool, typer.Option("--reasoning", help="Show the reasoning, on standard error.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Ask one question and print the answer: exit status 0, 1 where there is none, 2 where the options are wrong."""
    from gptoss_client.talk.ask import ask as ask_once
    from gptoss_client.talk.ask import question_of, schema_format
    from gptoss_client.talk.conversation import Choices, Conversation

    response_format = schema_format(json_schema) if json_schema is not None else None
    conversation = Conversation(Choices(model, profile, effort, max_tokens, response_format), system)
    conversation.ask(question_of(words or (), sys.stdin))
    server = server_address(url, api_key, run_dir)
    with told_to_person(), _http(server) as http:
        ask_once(conversation.request(), _streams(http), with_reasoning=reasoning)


def bench(
    *,
    model: ModelOption = MODEL_ALIAS,
    profile: AtProfileOption = None,
    concurrency: Annotated[str, typer.Option(metavar="N,N…", help="Chats at once, level by level.")] = "1,4,16",
    seconds: Annotated[float, typer.Option(min=0.1, max=600.0, help="Of each level.")] = 5.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of each answer, which has exactly so many.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    url: UrlOption = None,
    api_key: KeyOption = None,
    run_dir: RunDirOption = None,
) -> None:
    """Measure times to the first token and tokens/s of a running server, in at most twice --seconds a level."""
    import asyncio

    from gptoss_client.bench.measure import Plan
    from gptoss_client.talk.conversation import Choices

    body = {**Choices(model, profile, max_tokens=max_tokens).body(()), "ignore_eos": True}
    plan = Plan(_levels(concurrency), seconds, body)
    server = server_address(url, api_key, run_dir)
    raise_limit()  # each chat is a connection
    with told_to_person():
        asyncio.run(_bench(server, plan, as_json=as_json))


async def _bench(server: ServerAddress, plan: Any, *, as_json: bool) -> None:  # noqa: ANN401 (bench.measure.Plan)
    import httpx

    from gptoss_client.bench import table
    from gptoss_client.bench.measure import Level, measure
    from gptoss_client.chat_stream import stream_chat_async
    from gptoss_client.queries import http_options
    from gptoss_client.talk.view import make_console

    console = make_console()
    limits = httpx.Limits(max_connections=None)
    options = http_options(server.url, server.api_key, _SILENCE_S, verify=server.verify, trust_env=server.trust_env)

    def show(level: Level) -> None:
        if not as_json:
            console.print(table.row(level))

    if not as_json:
        console.print(table.HEADER, style="bold")
    async with httpx.AsyncClient(limits=limits, **options) as http:
        levels = await measure(plan, lambda body: stream_chat_async(http, body), show)
    console.print(table.as_json(levels) if as_json else "\n".join(["", *table.plots(levels)]))


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--concurrency is {text!r}; it is numbers with commas between, such as 1,4,16") from error
    if not all(1 <= level <= _MAX_CONCURRENCY for level in levels):
        raise UsageError(f"--concurrency: each number is from 1 to {_MAX_CONCURRENCY}")
    return levels


def _http(server: ServerAddress) -> Any:  # noqa: ANN401 (httpx.Client: not imported before it is needed)
    import httpx

    from gptoss_client.queries import http_options

    options = http_options(server.url, server.api_key, _SILENCE_S, verify=server.verify, trust_env=server.trust_env)
    return httpx.Client(**options)


def _client(server: ServerAddress) -> Any:  # noqa: ANN401 (api.Client: not imported before it is needed)
    from gptoss_client.api import Client

    return Client(server.url, server.api_key, verify=server.verify, trust_env=server.trust_env)


def _streams(http: Any) -> Any:  # noqa: ANN401 (talk.turn.StreamChat)
    from functools import partial

    from gptoss_client.chat_stream import stream_chat

    return partial(stream_chat, http)
