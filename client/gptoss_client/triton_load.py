"""A tritonserver that is asked for another engine of a model, and what comes of that.

Stage: while a server runs.
Owns: the request to Triton's load API, and how long it is waited for.
Does not know: what is written down once it is done (reload.py), how a checkpoint is loaded.

Triton cannot be told to stop loading: whoever does not wait for the end does not know what is served from then on.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from gptoss_backend.contract import CHECKPOINT_PARAMETER
from gptoss_backend.model_names import ModelName
from gptoss_client.errors import CommandError
from gptoss_client.triton_command import API_KEY_HEADER, load_failure_in, start_progress

# Triton takes a config that is equal for no change at all, and goes on with the engine it has
_TIME_PARAMETER: Final = "reloaded_at"
_ASK_TIMEOUT_S: Final = 10.0
_PERIOD_S: Final = 0.25
GOES_ON: Final = "Triton goes on loading it: once it serves reload once more, so that the next start takes it, too"


@dataclass(frozen=True, slots=True)
class LoadingTriton:
    """One tritonserver to ask."""

    name: str
    url: str
    key: str
    log: Path
    timeout_s: float
    """For so long a load may stand still."""

    def load(self, model: ModelName, checkpoint: str, look: Callable[[], None]) -> None:
        """Ask for a new engine and wait for it. Raises CommandError with what kept it from loading.

        look: called several times a second meanwhile; where it raises, nobody waits any longer.
        """
        order = _Order(self, model, checkpoint)
        progress, got_on_at = start_progress(self.log), time.monotonic()
        while not order.is_over(_PERIOD_S):
            look()
            before, progress = progress, start_progress(self.log)
            if progress != before:
                got_on_at = time.monotonic()
            elif time.monotonic() > got_on_at + self.timeout_s:
                late = f"{model.openai} did not get on for {self.timeout_s:.0f} s (server.startup_timeout_s)"
                raise CommandError(f"{late}; {GOES_ON}")
        if order.failure:
            raise CommandError(order.failure)


class _Order:
    """A load that is asked for in a thread of its own, since the answer comes with its end."""

    def __init__(self, triton: LoadingTriton, model: ModelName, checkpoint: str) -> None:
        self._triton = triton
        self._model = model
        self._checkpoint = checkpoint
        self.failure: str | None = None
        """Why it came to nothing, once it is over."""
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def is_over(self, within_s: float) -> bool:
        """Wait so long for the end."""
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        triton, model = self._triton, self._model
        # a proxy for the web is not for Triton
        with httpx.Client(
            base_url=triton.url, headers={API_KEY_HEADER: triton.key}, trust_env=False, timeout=_ASK_TIMEOUT_S
        ) as client:
            try:
                config = client.get(f"/v2/models/{model.triton}/config").raise_for_status().json()
                order = {"parameters": {"config": json.dumps(_changed(config, self._checkpoint))}}
                answer = client.post(f"/v2/repository/models/{model.triton}/load", json=order, timeout=None)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                self.failure = f"Triton cannot be asked to load {model.openai}: {error}"
                return
        if answer.status_code != httpx.codes.OK:
            self.failure = f"{_reason(answer)}; {model.openai} serves on with what it had"


def _changed(config: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    parameters = {CHECKPOINT_PARAMETER: checkpoint, _TIME_PARAMETER: str(time.time())}
    told = {name: {"string_value": text} for name, text in parameters.items()}
    return {**config, "parameters": {**config.get("parameters", {}), **told}}


def _reason(answer: httpx.Response) -> str:
    try:
        text = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = f"Triton answered {answer.status_code}"
    return (load_failure_in(text) or text).strip().rstrip(";")
