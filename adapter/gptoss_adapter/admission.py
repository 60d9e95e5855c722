"""The door: who may come in, and how many at once.

Stage: 1 route.
Owns: which paths ask for a key, the answers of each key under way, when a refused request should come back.
Does not know: how keys are kept, what a request asks for but for how many answers.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from gptoss_adapter.context import RequestRecord
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import DrainingError, TooManyRequestsError, invalid_value
from gptoss_adapter.hosts import HostCheck
from gptoss_adapter.keys import KeyFile
from gptoss_adapter.paths import CONVERSATIONS, HEALTH, KEPT_RESPONSES, OPERATORS, PAGE, PAGE_FILES, takes_anthropic_key
from gptoss_backend.keys import ApiKey
from gptoss_backend.settings import AdapterSettings

_MAX_READING: Final = 16
"""Requests of one key that work on what is kept: one thread does it for all."""
_CANCEL: Final = "/cancel"
_NUM_DURATIONS: Final = 64
_MAX_RETRY_S: Final = 60


class Admission:
    """Lets requests in or raises why not."""

    def __init__(
        self, settings: AdapterSettings, keys: KeyFile | None, drain: Drain, hosts: HostCheck | None = None
    ) -> None:
        """keys: None: whoever comes may come in. hosts: None: by any name."""
        self._hosts = hosts
        self._keys = keys
        self._drain = drain
        self._max_concurrency = settings.max_concurrency_per_key
        self._keyless = OPERATORS if settings.open_metrics else HEALTH
        self._under_way: Counter[str] = Counter()
        self._reading: Counter[str] = Counter()
        self._durations_s: deque[float] = deque(maxlen=_NUM_DURATIONS)

    def key_of(self, scope: Scope, headers: Headers) -> ApiKey | None:
        """Return whose request this is; None: it needs no key. Looks at its head only.

        Raises InvalidKeyError, DrainingError, InvalidRequestError.
        """
        if self._hosts is not None:
            self._hosts.check(headers)
        self._check_open(scope)
        path = scope["path"]
        # the page is open: it is nobody's, and asks for a key where the API does
        if self._keys is None or path in self._keyless or path == PAGE or path.startswith(PAGE_FILES):
            return None
        return self._keys.check(_offered(path, headers))

    @contextmanager
    def request(self, scope: Scope, key: ApiKey | None, record: RequestRecord) -> Iterator[None]:
        """Let a request in, its body read, for as long as its answer takes.

        record: learns what ends that it is counted, and how it comes to count as several. Raises DrainingError,
        TooManyRequestsError.
        """
        self._check_open(scope)
        waited_for = self._drain.request() if scope["path"] not in OPERATORS else nullcontext()
        with record.counted as counted, waited_for:
            if key is not None and _is_counted(scope):
                self.check_room(scope, key)
                counted.enter_context(_counted(self._under_way, key))
                record.count_answers = partial(self._count_answers, key, counted)
            elif key is not None and _is_reading(scope):
                self._check_reading(key)
                counted.enter_context(_counted(self._reading, key))
            yield

    def check_room(self, scope: Scope, key: ApiKey | None) -> None:
        """Raise TooManyRequestsError where the key has as many answers under way as it may: before a body is read."""
        if key is None or not _is_counted(scope):
            return
        limit, num = self._limit_of(key), self._under_way[key.name]
        if limit is not None and num >= limit:
            message = f"The key '{key.name}' has {num} answers under way, as many as it may. Try again when one ends."
            raise TooManyRequestsError(message, retry_after_s=self.retry_after_s(num))

    def _count_answers(self, key: ApiKey, counted: ExitStack, num_answers: int) -> None:
        """Let a request, which counts as one answer, count as so many. counted: what ends that it does."""
        limit, num_others = self._limit_of(key), self._under_way[key.name] - 1
        if limit is not None and num_answers > limit:
            raise invalid_value(
                f"The request asks for {num_answers} answers; the key '{key.name}' may have {limit} at once.", "n"
            )
        if limit is not None and num_others + num_answers > limit:
            message = (
                f"The request asks for {num_answers} answers; the key '{key.name}' has {num_others} under way and may "
                f"have {limit} at once. Try again when some end."
            )
            raise TooManyRequestsError(message, retry_after_s=self.retry_after_s(num_others))
        counted.enter_context(_counted(self._under_way, key, num_answers - 1))

    def _limit_of(self, key: ApiKey) -> int | None:
        return key.max_concurrency or self._max_concurrency

    def _check_reading(self, key: ApiKey) -> None:
        if self._reading[key.name] >= _MAX_READING:
            message = f"The key '{key.name}' has {_MAX_READING} requests for what is kept under way. Try again later."
            raise TooManyRequestsError(message, retry_after_s=1)

    def _check_open(self, scope: Scope) -> None:
        if self._drain.has_begun and scope["path"] not in OPERATORS:
            raise DrainingError

    def retry_after_s(self, num_under_way: int | None = None) -> int:
        """Return when one of the requests under way is likely to have ended, in whole seconds.

        By Little's law: while each takes T and N are under way, one ends every T / N. num_under_way: None: all.
        """
        if not self._durations_s:
            return 1
        between_ends_s = median(self._durations_s) / max(1, num_under_way or self._drain.num_under_way)
        return min(max(1, math.ceil(between_ends_s)), _MAX_RETRY_S)

    def note_duration(self, duration_s: float) -> None:
        """Take note of how long an answer took."""
        self._durations_s.append(duration_s)


@contextmanager
def _counted(among: Counter[str], key: ApiKey, num: int = 1) -> Iterator[None]:
    among[key.name] += num
    try:
        yield
    finally:
        among[key.name] -= num
        if not among[key.name]:
            del among[key.name]


def _is_counted(scope: Scope) -> bool:
    """Say whether a request's answers are of those that a key may have so many of: to cancel one makes room."""
    return scope["method"] == "POST" and not scope["path"].endswith(_CANCEL) and not _is_of_a_conversation(scope)


def _is_reading(scope: Scope) -> bool:
    """Say whether a request works on what is kept: reads it, deletes it or cancels it, if it is none that is counted.

    A stream ends to count once it has found what it tells.
    """
    path: str = scope["path"]
    return path.startswith(KEPT_RESPONSES) or _is_of_a_conversation(scope)


def _is_of_a_conversation(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == CONVERSATIONS or path.startswith(f"{CONVERSATIONS}/")


def _offered(path: str, headers: Headers) -> str | None:
    """Return the Authorization header, or what says the same in the words of Anthropic's clients."""
    given = headers.get("authorization")
    if given is None and takes_anthropic_key(path) and (key := headers.get("x-api-key")) is not None:
        return f"Bearer {key}"
    return given
