"""From the engine's deltas to decoupled responses: one thread that sends, one that asks who has gone away.

Stage 6 of a request, its first half: detokenize. Owns: the open response streams, the thread that sends on them, its
pace. Does not know: how tokens come about. All sends of one request come from one thread, in order; after its final
response a stream is forgotten.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import (
    EVENT,
    EVENT_CODEC,
    TEXT,
    TOKEN_IDS,
    Continued,
    Finished,
    GenerationErrorCode,
    GenerationEvent,
    Started,
    encode_error,
)
from gptoss_backend.engine.sequence import TokenDelta
from gptoss_backend.harmony.vocabulary import TextDecoder
from gptoss_backend.triton.tensors import bytes_tensor, ids_tensor

logger = logging.getLogger(__name__)

MOST_HELD_S = 0.1
"""Ten updates a second still read as a flow."""
UNREAD_HELD_S = 0.1
"""How long the last response to a client that has gone is held back."""

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class ResponseStream:
    """The open answer to one request. May be used from any thread.

    The server frees what stands behind a response sender when the final response arrives; asking it anything after
    that reads freed memory and ends tritonserver (seen with 24.10). So every call on the sender is made under a lock
    that knows whether the end has been sent.
    """

    is_abandoned = False
    """Whether the client was found to be gone; set once, by the housekeeper."""
    is_broken = False
    """Whether a response could not be sent; set once, by the sending thread."""

    def __init__(self, sender: Any) -> None:  # noqa: ANN401 (Triton's InferenceResponseSender, not importable here)
        self._sender = sender
        self._text = TextDecoder()
        self._lock = threading.Lock()
        self._ended = False  # guarded by _lock

    def is_cancelled(self) -> bool:
        """Ask the server whether the client has gone; a round trip. False once the end has been sent."""
        with self._lock:
            return not self._ended and bool(self._sender.is_cancelled())

    def send(self, delta: TokenDelta) -> None:
        """Send one response; waits for the server to take it."""
        if delta.error is not None:
            self.refuse(*_refusal_of(delta.error, delta.error_code))
            return
        text = self._text.push(delta.token_ids)
        if delta.is_last:
            text += self._text.finish()
        event = _event_of(delta)
        raw_event = b"" if event is None else EVENT_CODEC.encode(event)
        response = pb_utils.InferenceResponse(
            [ids_tensor(TOKEN_IDS, delta.token_ids), bytes_tensor(TEXT, text.encode()), bytes_tensor(EVENT, raw_event)]
        )
        self._send(response, is_last=delta.is_last)

    def refuse(self, sentence: str, status: int) -> None:
        """End the request with an error."""
        error = pb_utils.TritonError(sentence, status)
        self._send(pb_utils.InferenceResponse(error=error), is_last=True)

    def _send(self, response: Any, *, is_last: bool) -> None:  # noqa: ANN401
        with self._lock:
            if self._ended:
                return
            self._ended = is_last
            self._sender.send(response, flags=_FINAL if is_last else 0)


class ResponseSender:
    """Sends what the engine says, at a pace: under load a response holds more tokens rather than that there are more.

    A response costs the sender, the server, the adapter and the client about as much whatever it holds; on a machine
    whose processors compute tokens, too, that is time taken from tokens. So after a round of responses the next waits
    until the rate allows it, while tokens gather. A request's first and last words never wait, and nobody's longer than
    MOST_HELD_S.
    """

    def __init__(self, cancel: Callable[[str], None], max_responses_per_s: float) -> None:
        """cancel: told a request id, once its client is found to be gone."""
        self._cancel = cancel
        self._response_s = 1.0 / max_responses_per_s
        self._wake = threading.Condition()
        # guarded by _wake
        self._gathered: dict[str, list[TokenDelta]] = {}  # by request, in the order of first mention
        self._urgent: list[str] = []  # requests with something gathered that does not wait
        self._streams: dict[str, ResponseStream] = {}
        self._silent: set[str] = set()  # requests without a token yet
        self._unread: deque[tuple[float, ResponseStream, TokenDelta]] = deque()  # last words for nobody, and when
        self._closing = False
        self._next_round_s = 0.0  # the sending thread's
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
        self._send_unread(math.inf)

    def open(self, request_id: str, stream: ResponseStream) -> None:
        """Register a stream, before the engine first speaks of its request."""
        with self._wake:
            self._streams[request_id] = stream
            self._silent.add(request_id)

    def forget(self, request_id: str) -> None:
        """Drop a stream of which the engine will never speak."""
        with self._wake:
            self._streams.pop(request_id, None)
            self._silent.discard(request_id)

    def put(self, deltas: list[TokenDelta]) -> None:
        """Hand over a step's news; the engine's sink. Does not block."""
        with self._wake:
            was_idle = not self._gathered
            for delta in deltas:
                self._gathered.setdefault(delta.request_id, []).append(delta)
                if delta.event is not None or delta.error is not None or delta.request_id in self._silent:
                    self._urgent.append(delta.request_id)
                    if delta.token_ids:
                        self._silent.discard(delta.request_id)
            if was_idle or self._urgent:
                self._wake.notify()

    def cancel_abandoned(self) -> bool:
        """Ask the server which clients have gone, one round trip a stream, and cancel their requests; True if any.

        Nothing more is sent to them but the last response, by which the server knows the end, and that in a later call:
        tritonserver 24.10 dies where the last response comes while it still clears away what was under way when the
        client left (seen once in some hundred thousand departures; its pull request 7840 tells of such a case).
        """
        self._send_unread(time.monotonic())
        with self._wake:
            streams = list(self._streams.items())
        abandoned = [(request_id, stream) for request_id, stream in streams if _is_gone(request_id, stream)]
        for request_id, stream in abandoned:
            stream.is_abandoned = True
            self._cancel(request_id)
        return bool(abandoned)

    def _send_unread(self, now_s: float) -> None:
        while True:
            with self._wake:
                if not self._unread or self._unread[0][0] > now_s:
                    return
                _, stream, delta = self._unread.popleft()
            self._try_to_send(stream, delta)

    def _run(self) -> None:
        while deltas := self._next_round():
            for delta in deltas:
                self._send(delta)

    def _next_round(self) -> list[TokenDelta]:
        """Wait until something may be sent and return it, one request after another; nothing when it is time to end."""
        with self._wake:
            while not (self._urgent or self._closing):
                left_s = self._next_round_s - time.monotonic()
                if self._gathered and left_s <= 0.0:
                    break
                self._wake.wait(left_s if self._gathered else None)
            now_s = time.monotonic()
            is_paced = self._next_round_s <= now_s or self._closing
            due = list(self._gathered) if is_paced else dict.fromkeys(self._urgent)
            self._urgent.clear()
            deltas = [delta for request_id in due for delta in coalesce(self._gathered.pop(request_id))]
            self._next_round_s = min(
                max(self._next_round_s, now_s) + len(deltas) * self._response_s, now_s + MOST_HELD_S
            )
            return deltas

    def _send(self, delta: TokenDelta) -> None:
        with self._wake:
            stream = self._streams.get(delta.request_id)
            if delta.is_last:
                self._streams.pop(delta.request_id, None)
                self._silent.discard(delta.request_id)
        if stream is None:
            return
        if stream.is_broken:
            if delta.is_last:
                self._try_to_send(stream, TokenDelta(delta.request_id, error="a response could not be sent"))
        elif not stream.is_abandoned:
            self._try_to_send(stream, delta)
        elif delta.is_last:
            with self._wake:
                self._unread.append((time.monotonic() + UNREAD_HELD_S, stream, delta))

    def _try_to_send(self, stream: ResponseStream, delta: TokenDelta) -> None:
        try:
            stream.send(delta)
        except Exception:  # the server refused it: this request is lost, the others must go on
            logger.exception("request %s: a response could not be sent", delta.request_id)
            stream.is_broken = True  # its client is told once the engine has ended it
            self._cancel(delta.request_id)


def _is_gone(request_id: str, stream: ResponseStream) -> bool:
    try:
        return stream.is_cancelled()
    except Exception:  # the others are to be asked, too
        logger.exception("request %s: the server does not say whether its client is there", request_id)
        return False


def coalesce(deltas: Iterable[TokenDelta]) -> list[TokenDelta]:
    """Join what one request has gathered into as few deltas as its events allow.

    A delta holds one event: Started opens the first, Finished or an error closes the last.
    """
    parts: list[TokenDelta] = []
    for delta in deltas:
        if parts and not _must_stay_apart(parts[-1], delta):
            before = parts.pop()
            tokens, logprobs = before.token_ids + delta.token_ids, before.logprobs + delta.logprobs
            of_prompt = before.prompt_logprobs + delta.prompt_logprobs
            delta = TokenDelta(
                delta.request_id, tokens, before.event or delta.event, logprobs=logprobs, prompt_logprobs=of_prompt
            )
        parts.append(delta)
    return parts


def _event_of(delta: TokenDelta) -> GenerationEvent | None:
    if not (delta.logprobs or delta.prompt_logprobs):
        return delta.event
    if delta.event is None:
        return Continued(delta.logprobs, prompt_logprobs=delta.prompt_logprobs)
    return replace(delta.event, logprobs=delta.logprobs, prompt_logprobs=delta.prompt_logprobs)


def _refusal_of(sentence: str, code: GenerationErrorCode | None) -> tuple[str, int]:
    """Return the text and Triton status of an error of the engine."""
    if code is None:
        return sentence, pb_utils.TritonError.INTERNAL
    is_requests = code is GenerationErrorCode.STRUCTURE_FAILED
    status = pb_utils.TritonError.INVALID_ARG if is_requests else pb_utils.TritonError.UNAVAILABLE
    return encode_error(code, sentence), status


def _must_stay_apart(before: TokenDelta, after: TokenDelta) -> bool:
    return after.error is not None or (isinstance(before.event, Started) and isinstance(after.event, Finished))
