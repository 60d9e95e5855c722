"""`gptoss reload`: another checkpoint for one model of a running server, through Triton's load API.

Stage: while a server runs.
Owns: which tritonservers are asked, what becomes of them where one fails, what is written down once it is done.
Does not know: how Triton is asked (triton_load.py), how requests move from the old engine to the new.

Triton starts the new engine beside the old one, gives new requests to the new one from the moment it is ready, and ends
the old one with its last request: until then there are two in memory. Where loading fails, the old one stays. Several
tritonservers load one after the other; where one fails, those that were done get back what they had.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from rich.console import Console

from gptoss_backend.model_names import MODELS_BY_SHORT, ModelName, ModelShort
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses, of_each_replica
from gptoss_client.checkpoint import absolute, check_there
from gptoss_client.display import CONSOLE_GONE
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.launch import TRITON, TRITON_LOG, numbered
from gptoss_client.run_state import Phase, RunDirectory
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_load import GOES_ON, LoadingTriton


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
        with StopSignal() as stop:
            _load_everywhere(run, settings, name, place, _Patience(stop, console))
        # now, not before: whoever starts Triton again is to load what was last served
        try:
            run.write_config(settings.model_copy(update={"checkpoints": {**settings.checkpoints, short: place}}))
        except OSError as error:
            kept = f"the next start takes {settings.checkpoints[short]}, since {run.config} was not written"
            raise CommandError(f"{place} serves now, but {kept}: {error.strerror}") from error
        if again := [triton for triton, count in _deaths(run).items() if deaths.get(triton) != count]:
            raise CommandError(
                f"{' and '.join(again)} died meanwhile and may have the old checkpoint: reload once more"
            )
        _say(
            console,
            f"{name.openai}: new requests go to the new checkpoint after {time.monotonic() - begun:.1f} s; "
            "those under way end with the old one",
        )


class _Patience:
    """Waits for Triton to the end, unless somebody asks for that twice: only then it is known what is served."""

    def __init__(self, stop: StopSignal, console: Console) -> None:
        self._stop = stop
        self.console = console
        self._has_said = False

    def look(self) -> None:
        """See whether somebody wants to stop. Raises CommandError where that is at once."""
        if self._stop.at_once:
            raise CommandError(f"nobody waits any longer; {GOES_ON}")
        if self._stop.requested and not self._has_said:
            self._has_said = True
            _say(self.console, "Triton cannot be told to stop loading: waiting for it (Ctrl-C again: not waiting)")


def _load_everywhere(run: RunDirectory, settings: Settings, model: ModelName, place: str, patience: _Patience) -> None:
    """Let one tritonserver after the other load the checkpoint. Raises CommandError with none, or some, changed."""
    tritons = _tritons(run, settings)
    for number, triton in enumerate(tritons):
        try:
            triton.load(model, place, patience.look)
        except CommandError as error:
            if number == 0:
                raise
            left = _put_back(tritons[:number], model, settings.checkpoints[model.short], place, patience)
            raise CommandError(f"{triton.name}: {error}; {left}") from error
        if len(tritons) > 1:
            _say(patience.console, f"{model.openai}: {triton.name} has it, {number + 1} of {len(tritons)}")


def _tritons(run: RunDirectory, settings: Settings) -> list[LoadingTriton]:
    key, timeout_s = run.read_triton_key(), settings.server.startup_timeout_s
    return [
        LoadingTriton(
            numbered(TRITON, number),
            Addresses.of(one).triton_http,
            key,
            run.log(numbered(TRITON_LOG, number)),
            timeout_s,
        )
        for number, one in enumerate(of_each_replica(settings))
    ]


def _put_back(changed: list[LoadingTriton], model: ModelName, old: str, new: str, patience: _Patience) -> str:
    """Let those that have the new checkpoint load the old one; return what has become of them, for people."""
    names = " and ".join(triton.name for triton in changed)
    if old == new:
        return f"{names} serves what {new} holds now, the others what it held"
    kept = []
    for triton in changed:
        try:
            triton.load(model, old, patience.look)
        except CommandError as error:
            kept.append(f"{triton.name} still serves {new} ({error})")
    return "; ".join(kept) or f"{names} has {old} again"


def _say(console: Console, text: str) -> None:
    """Tell whoever is there: a terminal or pipe that is gone keeps nothing from being done."""
    with contextlib.suppress(*CONSOLE_GONE):
        console.print(text)


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
