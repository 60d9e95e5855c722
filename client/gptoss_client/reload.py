"""`gptoss reload`: another checkpoint for one model of a running server, through Triton's load API.

Stage: while a server runs.
Owns: what is asked of Triton, and what is written down once it is done.
Does not know: how a checkpoint is loaded, how requests move from the old engine to the new.

Triton starts the new engine beside the old one, gives new requests to the new one from the moment it is ready, and ends
the old one with its last request: until then there are two in memory. Where loading fails, the old one stays. Several
tritonservers load one after the other; where one fails, those that were done get back what they had.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.console import Console

from gptoss_backend.contract import CHECKPOINT_PARAMETER
from gptoss_backend.model_names import MODELS_BY_SHORT, ModelName, ModelShort
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses, of_each_replica
from gptoss_client.checkpoint import absolute, check_there
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.launch import TRITON, numbered
from gptoss_client.run_state import Phase, RunDirectory
from gptoss_client.triton_command import API_KEY_HEADER, load_failure_in

# Triton takes a config that is equal for no change at all, and goes on with the engine it has
_TIME_PARAMETER: Final = "reloaded_at"
_ASK_TIMEOUT_S: Final = 10.0


def reload(run: RunDirectory, model: ModelShort | None, checkpoint: str | None, console: Console) -> None:
    """Load the checkpoint in place of the one `model` has; without one, what its folder holds now.

    model: None: the only one. Blocks until it answers requests. Raises CommandError; the old engines serve on then, or
    it says which do not.
    """
    if run.read_state() is None:
        raise CommandError(f"no server runs from {run.root}")
    with run.claim_reload():
        settings = _running(run)
        short = _chosen(settings, model)
        name = MODELS_BY_SHORT[short]
        place = absolute(short, checkpoint) if checkpoint else settings.checkpoints[short]
        check_there(short, place)
        console.print(f"{name.openai}: loading {place} beside what serves now, for which both need memory")
        begun, deaths = time.monotonic(), _deaths(run)
        _load_everywhere(run, settings, name, place, console)
        # now, not before: whoever starts Triton again is to load what was last served
        run.write_config(settings.model_copy(update={"checkpoints": {**settings.checkpoints, short: place}}))
        if again := [triton for triton, count in _deaths(run).items() if deaths.get(triton) != count]:
            raise CommandError(
                f"{' and '.join(again)} died meanwhile and may have the old checkpoint: reload once more"
            )
        console.print(
            f"{name.openai}: new requests go to the new checkpoint after {time.monotonic() - begun:.1f} s; "
            "those under way end with the old one"
        )


@dataclass(frozen=True, slots=True)
class _Triton:
    """One tritonserver to ask."""

    name: str
    url: str
    key: str
    timeout_s: float


def _load_everywhere(run: RunDirectory, settings: Settings, model: ModelName, place: str, console: Console) -> None:
    """Let one tritonserver after the other load the checkpoint. Raises CommandError with none, or some, changed."""
    key, timeout_s = run.read_triton_key(), settings.server.startup_timeout_s
    urls = [Addresses.of(one).triton_http for one in of_each_replica(settings)]
    tritons = [_Triton(numbered(TRITON, number), url, key, timeout_s) for number, url in enumerate(urls)]
    for number, triton in enumerate(tritons):
        try:
            _load(triton, model, place)
        except CommandError as error:
            if number == 0:
                raise
            left = _put_back(tritons[:number], model, settings.checkpoints[model.short], place)
            raise CommandError(f"{triton.name}: {error}; {left}") from error
        if len(tritons) > 1:
            console.print(f"{model.openai}: {triton.name} has it, {number + 1} of {len(tritons)}")


def _put_back(changed: list[_Triton], model: ModelName, old: str, new: str) -> str:
    """Let those that have the new checkpoint load the old one; return what has become of them, for people."""
    names = " and ".join(triton.name for triton in changed)
    if old == new:
        return f"{names} serves what {new} holds now, the others what it held"
    kept = []
    for triton in changed:
        try:
            _load(triton, model, old)
        except CommandError as error:
            kept.append(f"{triton.name} still serves {new} ({error})")
    return "; ".join(kept) or f"{names} has {old} again"


def _deaths(run: RunDirectory) -> Mapping[str, int]:
    """Return how often each tritonserver has died that ever did."""
    state = run.read_state()
    return {death.name: death.count for death in state.deaths if death.name.startswith(TRITON)} if state else {}


def _running(run: RunDirectory) -> Settings:
    state = run.read_state()
    if state is None or state.supervisor.find() is None:
        raise CommandError(f"no server runs from {run.root}")
    if state.phase is not Phase.READY:
        raise CommandError(f"the server of {run.root} is {state.phase}: try again when it is ready")
    settings = run.read_settings()
    if settings.placement.num_nodes > 1:
        raise UsageError("a model that is spread over several hosts is not reloaded: start its nodes anew")
    return settings


def _chosen(settings: Settings, model: ModelShort | None) -> ModelShort:
    served = settings.served_models
    if model is None and len(served) == 1:
        return served[0]
    if model is None:
        raise UsageError(f"the server has {' and '.join(served)}: say which to reload")
    if model not in served:
        raise UsageError(f"the server does not have {model}, but {' and '.join(served)}")
    return model


def _load(triton: _Triton, model: ModelName, checkpoint: str) -> None:
    """Ask Triton for a new engine and wait for it. Raises CommandError with what kept it from loading."""
    # a proxy for the web is not for Triton
    headers, timeout_s = {API_KEY_HEADER: triton.key}, triton.timeout_s
    with httpx.Client(base_url=triton.url, headers=headers, trust_env=False, timeout=_ASK_TIMEOUT_S) as client:
        try:
            config = client.get(f"/v2/models/{model.triton}/config").raise_for_status().json()
            order = {"parameters": {"config": json.dumps(_changed(config, checkpoint))}}
            answer = client.post(f"/v2/repository/models/{model.triton}/load", json=order, timeout=timeout_s)
        except httpx.TimeoutException:
            late = f"{model.openai} was not loaded after {timeout_s:.0f} s (server.startup_timeout_s)"
            raise CommandError(f"{late}; Triton goes on loading it") from None
        except httpx.HTTPError as error:
            raise CommandError(f"Triton cannot be asked to load {model.openai}: {error}") from error
    if answer.status_code != httpx.codes.OK:
        raise CommandError(f"{_reason(answer)}; {model.openai} serves on with what it had")


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
