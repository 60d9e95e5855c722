"""What the commands that talk to a server share on the command line.

Stage: the edge between a person and the client.
Owns: their options, how these lead to a server, what a broken pipe means.
Does not know: what is asked of the server.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from gptoss_backend.contract import ReasoningEffort
from gptoss_backend.settings import ProfileName
from gptoss_client.api_errors import ClientError, ServerError
from gptoss_client.errors import INTERRUPTED, CommandError
from gptoss_client.run_state import RunDirectory
from gptoss_client.serve_options import load
from gptoss_client.server_address import ServerAddress, named_server, running_server
from gptoss_client.standard_streams import BROKEN_PIPE, drop_output

UrlOption = Annotated[
    str | None, typer.Option(metavar="http://HOST:PORT", help="The server [default: the one of the run directory].")
]
KeyOption = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Where the server asks for one.")]
RunDirOption = Annotated[Path | None, typer.Option(help="Of the running server [default: .run in the project].")]
ModelOption = Annotated[str, typer.Option(help="Who answers; gpt-oss is the profile's model.")]
AtProfileOption = Annotated[ProfileName | None, typer.Option(help="Operating point [default: the server's].")]
EffortOption = Annotated[ReasoningEffort | None, typer.Option(help="How long to reason [default: the profile's].")]
SystemOption = Annotated[str | None, typer.Option(help="A system message.")]
MaxTokensOption = Annotated[int | None, typer.Option(min=1, help="Of an answer [default: the profile's].")]


def server_address(url: str | None, api_key: str | None, run_dir: Path | None) -> ServerAddress:
    """Return the server that the options mean. Raises UsageError, CommandError."""
    if url is not None:
        return named_server(url, api_key)
    return running_server(RunDirectory.of(load(None, {"server": {"run_dir": run_dir}})), api_key)


@contextlib.contextmanager
def told_to_person() -> Iterator[None]:
    """Make what a server or a pipe does to a command its exit status: 1 with a sentence, 130 after Ctrl-C."""
    try:
        yield
    except ClientError as error:
        is_refused = isinstance(error, ServerError) and error.status == HTTPStatus.UNAUTHORIZED
        raise CommandError(f"{error} Here: --api-key KEY, or OPENAI_API_KEY." if is_refused else str(error)) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:  # whoever read has what they wanted
        drop_output()
        raise typer.Exit(BROKEN_PIPE) from None
