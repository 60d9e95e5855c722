"""Simulated people who chat with a running server, and whether it kept its promises to them.

Stage: before 1 route and behind 7 SSE.
Owns: the kinds of users, the options, what locust is told, the verdict at the end.
Does not know: the format of streams (sse, answer), what is asked (prompts), how the verdict is reached (report).

    locust -f load/locustfile.py --headless -u 8 -r 8 -t 30s --host http://127.0.0.1:8000

Each chat is reported to locust under its kind of user: `TTFT`, `inter-token` (a chat's mean), `chat` (the whole answer,
its length in tokens) or, where an impatient user closed the connection, `left early`. Failed chats fail `chat`.
The process ends with 1 if a service target was missed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from itertools import count
from time import perf_counter
from typing import Any, Final

from gevent import GreenletExit
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner
from locust.stats import console_logger

from load.answer import AnswerReader, ChatError
from load.chat_client import Chat, ChatClient, fetch_text
from load.prompts import PromptBook
from load.report import Samples, Targets, all_held, judge, render
from load.triton_metrics import CacheCounts, parse_cache_counts

STOP_TIMEOUT_S: Final = 60
"""How long chats may run on after the run's end. locust's own default, 0, would drop the slowest from the figures."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """Our part of locust's command line, as `add_options` defines it."""

    model: str | None
    max_tokens: int
    seed: int
    repeat_share: float
    document_words: int
    think_s: float
    triton_metrics: str | None

    @classmethod
    def of(cls, environment: Environment) -> Options:
        """Take them from what locust parsed."""
        return cls(**{option.name: getattr(environment.parsed_options, option.name) for option in fields(cls)})


class Run:
    """What this process has measured since the test started."""

    def __init__(self) -> None:
        self.samples = Samples()
        self.started_s = self.ended_s = perf_counter()
        self.cache_before: CacheCounts | None = None
        self.user_numbers = count()

    def start(self, metrics_url: str | None) -> None:
        """Forget what was, and note where Triton's counters stand."""
        self.samples.drain()
        self.started_s = perf_counter()
        self.cache_before = read_cache_counts(metrics_url) if metrics_url else None

    def cache_hit_share(self, metrics_url: str | None) -> float | None:
        """Return the share of prompts answered from Triton's response cache during the run, where it can be read."""
        now = read_cache_counts(metrics_url) if metrics_url else None
        return now.hit_share_since(self.cache_before or CacheCounts()) if now else None


RUN = Run()


def read_cache_counts(metrics_url: str) -> CacheCounts | None:
    """Read Triton's cache counters; None, with a warning in the log, where that fails."""
    try:
        return parse_cache_counts(fetch_text(metrics_url))
    except ChatError as fault:
        logger.warning("cannot read %s: %s", metrics_url, fault)
        return None


# --- users ----------------------------------------------------------------------------------------------------------


class ChatUser(User):
    """A person with one chat window: asks, reads the answer as it streams, thinks, asks again."""

    abstract = True
    kind = "chat"

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._options = Options.of(environment)
        worker = getattr(environment.runner, "worker_index", 0)
        self._prompts = PromptBook(
            f"{self._options.seed}.{worker}.{next(RUN.user_numbers)}",
            repeat_share=self._options.repeat_share,
            document_words=self._options.document_words,
        )
        self._client = ChatClient(str(environment.host))
        self._model = self._options.model

    def wait_time(self) -> float:
        """How long until the next message, as locust asks for it."""
        return self._prompts.think_s(self._options.think_s)

    def on_stop(self) -> None:
        """Close the window."""
        self._client.close()

    def ask(self, messages: list[dict[str, str]], *, leave_after_deltas: int | None = None) -> AnswerReader | None:
        """Hold one chat and report it. Return the whole answer; None where it failed or was left."""
        chat = self._client.chat()
        try:
            stayed = chat.run(self._request(messages), leave_after_deltas=leave_after_deltas)
        except ChatError as fault:
            self._report_failure(chat, fault)
            return None
        except GreenletExit:
            RUN.samples.cut_off_s.append(chat.age_s)
            raise
        self._report_answer(chat, stayed=stayed)
        return chat.answer if stayed else None

    def _request(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        self._model = self._model or self._client.first_model()
        return {
            "model": self._model,
            "messages": messages,
            "max_tokens": self._options.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def _report_failure(self, chat: Chat, fault: ChatError) -> None:
        RUN.samples.num_failed += 1
        self._report_first_token(chat.answer)
        self._fire("chat", chat.age_s, chat.answer.num_tokens, fault)

    def _report_answer(self, chat: Chat, *, stayed: bool) -> None:
        answer, age_s = chat.answer, chat.age_s
        RUN.samples.num_tokens += answer.num_tokens
        self._report_first_token(answer)
        if stayed:
            RUN.samples.answer_s.append(age_s)
            self._report_inter_token(answer)
        else:
            RUN.samples.num_left_early += 1
        self._fire("chat" if stayed else "left early", age_s, answer.num_tokens)

    def _report_first_token(self, answer: AnswerReader) -> None:
        if answer.ttft_s is not None:
            RUN.samples.ttft_s.append(answer.ttft_s)
            self._fire("TTFT", answer.ttft_s)

    def _report_inter_token(self, answer: AnswerReader) -> None:
        # of whole answers only: the tokens of one that was left are not known, a delta may hold several
        if answer.inter_token_s is not None:
            RUN.samples.inter_token_s.append(answer.inter_token_s)
            self._fire("inter-token", answer.inter_token_s)

    def _fire(self, name: str, time_s: float, num_tokens: int = 0, fault: ChatError | None = None) -> None:
        self.environment.events.request.fire(
            request_type=self.kind,
            name=name,
            response_time=time_s * 1000.0,
            response_length=num_tokens,
            exception=fault,
            context={},
        )


class ShortChat(ChatUser):
    """One question, one answer."""

    kind = "short chat"
    weight = 5

    @task
    def question(self) -> None:
        """Ask a question that stands alone."""
        self.ask([_user(self._prompts.question())])


class Conversation(ChatUser):
    """Several turns; each sends all that was said before, so its prompt begins with the last one's."""

    kind = "conversation"
    weight = 3
    num_turns: Final = 4

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._messages: list[dict[str, str]] = []

    @task
    def turn(self) -> None:
        """Say the next thing; begin anew after the last turn or a failure."""
        self._messages.append(_user(self._prompts.follow_up() if self._messages else self._prompts.opening()))
        answer = self.ask(self._messages)
        if answer is None or len(self._messages) >= 2 * self.num_turns - 1:
            self._messages = []
        else:
            self._messages.append({"role": "assistant", "content": answer.content})


class Document(ChatUser):
    """A long report and a question about it."""

    kind = "document"
    weight = 2

    @task
    def question(self) -> None:
        """Ask about a report."""
        self.ask([_user(self._prompts.document_question())])


class Impatient(ChatUser):
    """Closes the connection in the middle of the answer."""

    kind = "impatient"
    weight = 1

    @task
    def question(self) -> None:
        """Ask a question and leave."""
        self.ask([_user(self._prompts.question())], leave_after_deltas=self._prompts.patience_deltas())


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


# --- the run --------------------------------------------------------------------------------------------------------


def add_options(parser: LocustArgumentParser) -> None:
    """Add our options to locust's."""
    group = parser.add_argument_group("Chat options")
    group.add_argument("--model", help="Model to ask for. Default: the first that /v1/models lists")
    group.add_argument("--max-tokens", type=int, default=128, help="Longest answer, in tokens. Default: 128")
    group.add_argument(
        "--seed", type=int, default=0, help="Of the prompts; a new one on a server whose caches know the last's"
    )
    group.add_argument(
        "--repeat-share", type=float, default=0.7, help="Share of first messages that others ask too. Default: 0.7"
    )
    group.add_argument("--document-words", type=int, default=1200, help="Length of a document. Default: 1200")
    group.add_argument("--think-s", type=float, default=1.0, help="Mean seconds between two messages. Default: 1")
    group.add_argument(
        "--triton-metrics", metavar="URL", help="Triton's metrics page, to judge the prompt cache's hit rate by"
    )
    parser.set_defaults(stop_timeout=str(STOP_TIMEOUT_S))


def start(environment: Environment, **_: object) -> None:
    """Begin the run's figures."""
    RUN.start(None if _is_worker(environment) else Options.of(environment).triton_metrics)


def stop(environment: Environment, **_: object) -> None:
    """End the run's clock."""
    RUN.ended_s = perf_counter()


def hand_over(data: dict[str, Any], **_: object) -> None:
    """On a worker: send what was measured since the last report."""
    data["chat_samples"] = RUN.samples.drain()


def take_over(data: dict[str, Any], **_: object) -> None:
    """On the master: add a worker's measurements."""
    RUN.samples.merge(data.get("chat_samples", {}))


def conclude(environment: Environment, **_: object) -> None:
    """Print the summary and set the exit code: 0 where every target was held, else 1."""
    if _is_worker(environment):
        return
    metrics_url = Options.of(environment).triton_metrics
    hit_share = RUN.cache_hit_share(metrics_url)
    verdicts = judge(RUN.samples, Targets(), cache_hit_share=hit_share, cache_asked=metrics_url is not None)
    console_logger.info("\n%s\n", render(RUN.samples, verdicts, duration_s=RUN.ended_s - RUN.started_s))
    environment.process_exit_code = 0 if all_held(verdicts) else 1


def _is_worker(environment: Environment) -> bool:
    return isinstance(environment.runner, WorkerRunner)


for hook, listener in (
    (events.init_command_line_parser, add_options),
    (events.test_start, start),
    (events.test_stop, stop),
    (events.report_to_master, hand_over),
    (events.worker_report, take_over),
    (events.quitting, conclude),
):
    hook.add_listener(listener)  # type: ignore[no-untyped-call]  # locust leaves it unannotated
