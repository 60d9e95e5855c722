"""`gptoss chat`: a conversation in the terminal.

Stage: the person's end of a request's way.
Owns: what a line that begins with `/` means, what Ctrl-C ends.
Does not know: how answers are fetched or shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from gptoss_backend.contract import ReasoningEffort
from gptoss_client.api import Client
from gptoss_client.api_errors import ClientError
from gptoss_client.talk.conversation import Conversation
from gptoss_client.talk.line_input import LineInput
from gptoss_client.talk.transcript import save, stats_lines
from gptoss_client.talk.turn import StreamChat, take_turn
from gptoss_client.talk.view import AnswerView

_EFFORTS: Final = tuple(str(effort) for effort in ReasoningEffort)


class MistakeError(Exception):
    """A command cannot be followed. The message says why."""


@dataclass(slots=True)
class Chat:
    """One sitting at the terminal."""

    conversation: Conversation
    stream: StreamChat
    client: Client
    console: Console
    notes: Console
    """Where all goes that is no answer."""
    is_over: bool = False
    has_failed: bool = False
    """Whether the last turn had no answer."""

    def run(self, lines: LineInput) -> None:
        """Answer lines until the input ends or /quit."""
        with lines.remembered():
            while not self.is_over:
                try:
                    line = lines.read()
                except KeyboardInterrupt:
                    self.notes.print("\n(/quit or Ctrl-D ends the chat)", style="dim")
                    continue
                if line is None:
                    break
                self.take(line.strip())

    def take(self, line: str) -> None:
        """Follow a command, or answer a question."""
        try:
            if line.startswith("/"):
                self._follow(line)
            elif line:
                self._answer(line)
        except (MistakeError, ClientError) as error:
            self._note(str(error))
        except KeyboardInterrupt:
            self._note("interrupted")

    def _answer(self, question: str) -> None:
        self.conversation.ask(question)
        self.has_failed = True
        try:
            take_turn(self.conversation, self.stream, lambda: AnswerView(self.console), self._aside)
            self.has_failed = False
        except KeyboardInterrupt:
            self._take_back("interrupted")
        except ClientError as error:
            self._take_back(f"error: {error}")

    def _take_back(self, why: str) -> None:
        self.conversation.take_back()
        self._note(f"{why} (/retry asks again)")

    def _follow(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        command = _COMMANDS.get(name)
        if command is None:
            raise MistakeError(f"there is no {name}; /help lists what there is")
        command.follow(self, rest.strip())

    # --- commands ---------------------------------------------------------------------------------------------------

    def _help(self, _: str) -> None:
        typed = {f"{name} {command.argument}": command.meaning for name, command in _COMMANDS.items()}
        width = 2 + max(map(len, typed))
        for words, meaning in typed.items():
            self._note(f"{words:<{width}}{meaning}")
        self._note("a \\ at a line's end goes on in the next; Ctrl-C stops an answer")

    def _model(self, name: str) -> None:
        known = [model.id for model in self.client.models()]
        if name:
            self.conversation.choose(model=_one_of(name, known))
        self._note(f"model: {self.conversation.choices.model} (of {', '.join(known)})")

    def _effort(self, name: str) -> None:
        if name:
            self.conversation.choose(reasoning_effort=_one_of(name, _EFFORTS))
        self._note(f"reasoning effort: {self.conversation.choices.reasoning_effort or 'that of the profile'}")

    def _profile(self, name: str) -> None:
        profiles = self.client.profiles()
        if name:
            self.conversation.choose(profile=_one_of(name, [profile.name for profile in profiles]))
        served = ", ".join(f"{profile.name} ({profile.model})" for profile in profiles)
        self._note(f"profile: {self.conversation.choices.profile or 'that of the server'}; served: {served}")

    def _stats(self, _: str) -> None:
        for line in stats_lines(self.client.stats()):
            self._note(line)

    def _new(self, _: str) -> None:
        self.conversation.forget()
        self._note("a new conversation")

    def _retry(self, _: str) -> None:
        question = self.conversation.take_back()
        if question is None:
            raise MistakeError("nothing was asked yet")
        self._answer(question)

    def _system(self, text: str) -> None:
        if text:
            self.conversation.system = None if text == "-" else text
        self._note(f"system message: {self.conversation.system or 'none'}")

    def _save(self, path: str) -> None:
        if not path:
            raise MistakeError("where to? /save FILE (.json: the messages, else Markdown)")
        try:
            save(self.conversation, Path(path).expanduser())
        except FileExistsError as error:
            raise MistakeError(f"{path} is there already") from error
        except OSError as error:
            raise MistakeError(f"cannot write {path}: {error.strerror}") from error
        except (RuntimeError, ValueError) as error:  # ~ of nobody's, or what is no path
            raise MistakeError(f"cannot write {path}: {error}") from error
        self._note(f"saved to {path}")

    def _quit(self, _: str) -> None:
        self.is_over = True

    def _note(self, line: str) -> None:
        self.notes.print(line, style="dim")

    def _aside(self, line: str) -> None:
        """Tell what belongs to an answer but is none of its text, to a person only."""
        if self.console.is_terminal:
            self._note(line)


@dataclass(frozen=True, slots=True)
class _Command:
    follow: Callable[[Chat, str], None]
    argument: str
    meaning: str


_COMMANDS: Final[Mapping[str, _Command]] = {
    "/model": _Command(Chat._model, "[NAME]", "who answers"),
    "/effort": _Command(Chat._effort, f"[{'|'.join(_EFFORTS)}]", "how long it reasons"),
    "/profile": _Command(Chat._profile, "[NAME]", "the operating point"),
    "/system": _Command(Chat._system, "[TEXT|-]", "what the model is told to be; - nothing"),
    "/retry": _Command(Chat._retry, "", "ask the last question again"),
    "/new": _Command(Chat._new, "", "begin a new conversation"),
    "/save": _Command(Chat._save, "FILE", "keep the conversation"),
    "/stats": _Command(Chat._stats, "", "how the server does"),
    "/help": _Command(Chat._help, "", "this list"),
    "/quit": _Command(Chat._quit, "", "end the chat"),
}


def _one_of(name: str, known: tuple[str, ...] | list[str]) -> str:
    if name not in known:
        raise MistakeError(f"there is no {name!r}: it is one of {', '.join(known)}")
    return name
