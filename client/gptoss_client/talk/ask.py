"""`gptoss ask`: one question, one answer, in a pipe or on a terminal.

Stage: the person's end of a request's way.
Owns: what is asked, where the answer and its reasoning go, when it counts as failed.
Does not know: how the answer is fetched.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from gptoss_client.answer import Answer, Content, Reasoning
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.talk.turn import StreamChat
from gptoss_client.talk.view import AnswerView, make_console, printable


def question_of(words: Sequence[str], stdin: TextIO) -> str:
    """Return the words and, below them, what was piped in. Raises UsageError where both are empty or no text."""
    try:
        piped = "" if stdin.isatty() else stdin.read().strip()
        question = "\n\n".join(filter(None, (" ".join(words).strip(), piped)))
        question.encode()
    except UnicodeError as error:
        raise UsageError("the question is not UTF-8 text") from error
    if not question:
        raise UsageError('what is to be asked? gptoss ask "…", or pipe it in')
    return question


def schema_format(path: Path) -> dict[str, Any]:
    """Return the response format that holds an answer to the JSON schema in a file. Raises UsageError."""
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--json-schema: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--json-schema: {path} is not JSON: {error}") from error
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


def ask(body: dict[str, Any], stream: StreamChat, *, with_reasoning: bool) -> None:
    """Write the answer to standard output as it comes; with_reasoning: the reasoning to standard error.

    Raises ClientError; CommandError where the answer was cut or is empty.
    """
    aside = AnswerView(make_console(stderr=True))
    answer = Answer()
    with contextlib.closing(stream(body)) as parts:
        for part in parts:
            answer.add(part)
            if isinstance(part, Content):
                aside.end()
                _write(part.text)
            elif with_reasoning and isinstance(part, Reasoning):
                aside.show(part)
    aside.end()
    if answer.content and not answer.content.endswith("\n"):
        _write("\n")
    if answer.ended is not None and answer.ended.finish_reason == "length":
        raise CommandError("the answer was cut at the limit of tokens: --max-tokens raises it")
    if not answer.content:
        raise CommandError("the model ended its turn without an answer: ask again")


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
