"""People who ask for all there is, one thing after the other.

Stage: before 1 route and behind 7 SSE.
Owns: the kinds of requests, how often each comes, what counts as failed.
Does not know: the server's processes, what is made of the counts.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final

import httpx

from load.prompts import PromptBook

_REPEAT_SHARE: Final = 0.5
_DOCUMENT_WORDS: Final = 600
_ANSWER_TOKENS: Final = 48
_CANCELLED_TOKENS: Final = 20_000
_TIMEOUT_S: Final = 60.0
_TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "tide",
        "description": "When the tide is high",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
    },
}
_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"port": {"enum": ["Hamburg", "Bremen"]}, "depth": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["port", "depth"],
    "additionalProperties": False,
}


class User:
    """Asks until told to stop, in a thread of its own. `counts` holds what became of it, by kind and "failed"."""

    def __init__(self, url: str, number: int, stop: threading.Event) -> None:
        """Start asking."""
        self.counts: Counter[str] = Counter()
        self.last_failure = ""
        self._rng = Random(number)
        self._book = PromptBook(f"soak/{number}", repeat_share=_REPEAT_SHARE, document_words=_DOCUMENT_WORDS)
        self._stop = stop
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT_S, trust_env=False)
        self._last_response: str | None = None
        self._thread = threading.Thread(target=self._run, name=f"user-{number}")
        self._thread.start()

    def join(self) -> None:
        """Wait for the request under way."""
        self._thread.join()

    def _run(self) -> None:
        kinds: dict[Callable[[], None], int] = {
            self._short_chat: 8,
            self._whole_chat: 3,
            self._long_prompt: 2,
            self._tools: 3,
            self._structured: 3,
            self._cancelled: 4,
            self._response: 4,
        }
        with self._http:
            while not self._stop.is_set():
                [ask] = self._rng.choices(list(kinds), list(kinds.values()))
                try:
                    ask()
                    self.counts[ask.__name__.strip("_")] += 1
                except (httpx.HTTPError, LookupError, ValueError) as failure:
                    self.counts["failed"] += 1
                    self.last_failure = f"{ask.__name__.strip('_')}: {failure!r}"

    def _short_chat(self) -> None:
        self._stream(self._book.question())

    def _long_prompt(self) -> None:
        self._stream(self._book.document_question())

    def _whole_chat(self) -> None:
        self._chat(self._book.question(), temperature=0.7)

    def _tools(self) -> None:
        self._chat(self._book.question(), tools=[_TOOL], tool_choice=self._rng.choice(["auto", "required"]))

    def _structured(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "berth", "schema": _SCHEMA, "strict": True}}
        self._chat(self._book.question(), response_format=form)

    def _cancelled(self) -> None:
        body = self._body(self._book.question(), stream=True, max_tokens=_CANCELLED_TOKENS, ignore_eos=True)
        patience = self._book.patience_deltas()
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            for number, _ in enumerate(answer.iter_lines()):
                if number > patience:
                    return

    def _response(self) -> None:
        body = {"model": "gpt-oss", "input": self._book.follow_up(), "max_output_tokens": _ANSWER_TOKENS}
        if self._last_response is not None:
            body["previous_response_id"] = self._last_response
        made = self._post("/v1/responses", body)["id"]
        # a conversation of three turns on average, so that it ends before the context does
        self._last_response = made if self._rng.random() < 2 / 3 else None

    def _stream(self, question: str) -> None:
        with self._http.stream("POST", "/v1/chat/completions", json=self._body(question, stream=True)) as answer:
            answer.raise_for_status()
            *_, last = (line for line in answer.iter_lines() if line)
        if last != "data: [DONE]":
            raise ValueError(f"the stream ended with {last[:200]}")

    def _chat(self, question: str, **fields: object) -> None:
        self._post("/v1/chat/completions", self._body(question, **fields))

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def _body(self, question: str, **fields: object) -> dict[str, Any]:
        messages = [{"role": "user", "content": question}]
        return {"model": "gpt-oss", "messages": messages, "max_tokens": _ANSWER_TOKENS} | fields
