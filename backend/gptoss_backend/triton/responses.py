"""From the engine's deltas to decoupled responses: one thread that sends, one that asks who has gone away.

Stage 6 of a request, its first half: detokenize. Owns: the open response streams, the thread that sends on them.
Does not know: how tokens come about. All sends of one request come from one thread, in order; after its final
response a stream is forgotten.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import EVENT, EVENT_CODEC, TEXT, TOKEN_IDS, Finished, Started
from gptoss_backend.engine.sequence import TokenDelta
from gptoss_backend.harmony.vocabulary import TextDecoder
from gptoss_backend.triton.tensors import bytes_tensor, ids_tensor

logger = logging.getLogger(__name__)

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


@dataclass(slots=True)
class ResponseStream:
    """The open answer to one request."""

    sender: Any
    """Triton's InferenceResponseSender."""
    text: TextDecoder = field(default_factory=TextDecoder)

    def send(self, delta: TokenDelta) -> None:
        """Send one response; waits for the server to take it."""
        if delta.error is not None:
            self.refuse(delta.error, pb_utils.TritonError.INTERNAL)
            return
        text = self.text.push(delta.token_ids)
        if delta.is_last:
            text += self.text.finish()
        event = b"" if delta.event is None else EVENT_CODEC.encode(delta.event)
        response = pb_utils.InferenceResponse(
            [ids_tensor(TOKEN_IDS, delta.token_ids), bytes_tensor(TEXT, text.encode()), bytes_tensor(EVENT, event)]
        )
        self.sender.send(response, flags=_FINAL if delta.is_last else 0)

    def refuse(self, sentence: str, status: int) -> None:
        """End the request with an error."""
        error = pb_utils.TritonError(sentence, status)
        self.sender.send(pb_utils.InferenceResponse(error=error), flags=_FINAL)


class ResponseSender:
    """Sends what the engine says. While one round is being sent, the next gathers: under load a response holds more."""

    def __init__(self, cancel: Callable[[str], None]) -> None:
        """cancel: told a request id, once its client is found to be gone."""
        self._cancel = cancel
        self._wake = threading.Condition()
        # guarded by _wake
        self._deltas: list[TokenDelta] = []
        self._streams: dict[str, ResponseStream] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="response-sender", daemon=True)

    def start(self) -> None:
        """Start the sending thread."""
        self._thread.start()

    def close(self) -> None:
        """Send what is left, then join the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def open(self, request_id: str, stream: ResponseStream) -> None:
        """Register a stream, before the engine first speaks of its request."""
        with self._wake:
            self._streams[request_id] = stream

    def forget(self, request_id: str) -> None:
        """Drop a stream of which the engine will never speak."""
        with self._wake:
            self._streams.pop(request_id, None)

    def put(self, deltas: list[TokenDelta]) -> None:
        """Hand over a step's news; the engine's sink. Does not block."""
        with self._wake:
            self._deltas.extend(deltas)
            self._wake.notify()

    def cancel_abandoned(self) -> None:
        """Ask the server which clients have gone, one round trip a stream, and cancel their requests."""
        with self._wake:
            streams = list(self._streams.items())
        for request_id, stream in streams:
            if stream.sender.is_cancelled():
                self._cancel(request_id)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._deltas or self._closing):
                    self._wake.wait()
                deltas, self._deltas = self._deltas, []
                if not deltas:
                    return
            for delta in coalesce(deltas):
                self._send(delta)

    def _send(self, delta: TokenDelta) -> None:
        with self._wake:
            stream = self._streams.get(delta.request_id)
            if delta.is_last:
                self._streams.pop(delta.request_id, None)
        if stream is None:
            return
        try:
            stream.send(delta)
        except Exception:  # the server refused it: this request is lost, the others must go on
            logger.exception("request %s: a response could not be sent", delta.request_id)
            self.forget(delta.request_id)
            self._cancel(delta.request_id)


def coalesce(deltas: Iterable[TokenDelta]) -> list[TokenDelta]:
    """Join what each request has gathered into as few deltas as its events allow, in the order of first mention.

    A delta holds one event: Started opens the first, Finished or an error closes the last.
    """
    joined: dict[str, list[TokenDelta]] = {}
    for delta in deltas:
        parts = joined.setdefault(delta.request_id, [])
        if parts and not _must_stay_apart(parts[-1], delta):
            before = parts.pop()
            tokens = before.token_ids + delta.token_ids
            delta = TokenDelta(delta.request_id, tokens, before.event or delta.event, delta.error)
        parts.append(delta)
    return [part for parts in joined.values() for part in parts]


def _must_stay_apart(before: TokenDelta, after: TokenDelta) -> bool:
    return after.error is not None or (isinstance(before.event, Started) and isinstance(after.event, Finished))
