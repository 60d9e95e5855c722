"""The generation stub: PROMPT_IDS and SAMPLING in, a decoupled stream of token deltas out.

Stage 4 of a request enters here. Owns: the engine of one instance and the threads around it.
Does not know: Harmony messages, HTTP, what settings come to in an engine (engine_setup). Nothing here raises into
Triton: an exception out of `execute` would close the streams of every request in the batch.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import (
    PROMPT_IDS,
    SAMPLING,
    ContractError,
    GenerationErrorCode,
    Refusal,
    decode_sampling,
    encode_error,
)
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import EngineStopped, InvalidRequest, PromptTooLong, QueueFull
from gptoss_backend.engine.sequence import GenerationRequest
from gptoss_backend.model_names import MODELS_BY_TRITON
from gptoss_backend.settings_sources import load_settings
from gptoss_backend.structure.answer import mask_of
from gptoss_backend.structure.grammars import load_vocabulary
from gptoss_backend.structure.schemas import StructureError
from gptoss_backend.triton.engine_metrics import EngineMetrics
from gptoss_backend.triton.engine_setup import (
    asked_checkpoint,
    device_of,
    options_of,
    placement_of,
    responses_per_s,
    served_folder,
)
from gptoss_backend.triton.heartbeat import Heartbeat
from gptoss_backend.triton.logs import log_to_triton
from gptoss_backend.triton.responses import ResponseSender, ResponseStream
from gptoss_backend.triton.tensors import read_bytes, read_ids

logger = logging.getLogger(__name__)

# a vanished client is found within one period, and the page is never older; each look is a round trip to the server
_HOUSEKEEPING_PERIOD_S = 0.1
_SOON_S = 0.02
_LAST_WORDS_S = 0.5
_ENGINE_IS_LOST = 70  # EX_SOFTWARE of sysexits.h


class Generate:
    """Triton's model object: one engine for each instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the checkpoint and start the engine. Raises with one sentence, which fails the model's loading."""
        log_to_triton()
        settings = load_settings()
        name, model = args["model_name"], MODELS_BY_TRITON[args["model_name"]]
        device = device_of(args)
        self._ids = itertools.count()
        self._closing = threading.Event()
        self._sender = ResponseSender(
            cancel=lambda request_id: self._engine.cancel(request_id),
            max_responses_per_s=responses_per_s(settings),
        )
        folder = served_folder(asked_checkpoint(args["model_config"]) or settings.checkpoints[model.short], model)
        load_vocabulary()  # now: later it would hold up every stream for a second
        self._engine = Engine.load(
            folder,
            options_of(settings.engine, settings.profiles[settings.profile_of(model.short)], device),
            self._sender.put,
            device=device,
            placement=placement_of(settings.placement, args["model_instance_kind"]),
            progress=_log_progress(name),
        )
        self._metrics = EngineMetrics(name, args["model_instance_name"], self._engine.info)
        self._heartbeat = Heartbeat(name, args["model_instance_name"])
        self._housekeeper = threading.Thread(target=self._keep_house, name="housekeeper", daemon=True)
        self._sender.start()
        self._engine.start()
        self._housekeeper.start()
        # what is there now stays: without this, a full garbage collection looks through all of torch between two steps
        gc.collect()
        gc.freeze()
        logger.info("%s is ready on %s", name, device)

    def execute(self, requests: list[Any]) -> None:
        """Queue the requests and return at once; their responses come from the sender's thread."""
        for request in requests:
            try:
                self._accept(request)
            except Exception:  # even the refusal could not be sent; the rest of the batch must not suffer
                logger.exception("a request could not be answered")

    def finalize(self) -> None:
        """Stop the engine and join every thread. Triton calls this once the model's last request has ended."""
        self._engine.stop(drain_s=0.0)
        self._sender.close()
        self._closing.set()
        self._housekeeper.join()
        self._heartbeat.stop()

    def _accept(self, request: Any) -> None:  # noqa: ANN401 (Triton's InferenceRequest has no importable type here)
        request_id = f"{next(self._ids)}:{request.request_id()}"
        stream = ResponseStream(request.get_response_sender())
        try:
            sampling = decode_sampling(read_bytes(request, SAMPLING))
            if isinstance(sampling, Refusal):
                raise _RefusedByPreprocess(sampling)
            prompt_ids = read_ids(request, PROMPT_IDS)
            mask = mask_of(sampling.structure, prompt_ids) if sampling.structure is not None else None
            self._sender.open(request_id, stream)
            self._engine.submit(GenerationRequest(request_id, prompt_ids, sampling, mask))
        except Exception as error:  # noqa: BLE001 (every request gets an answer; _refusal logs the unexpected)
            self._sender.forget(request_id)
            stream.refuse(*_refusal(request_id, error))

    def _keep_house(self) -> None:
        wait_s = _HOUSEKEEPING_PERIOD_S
        while not self._closing.wait(wait_s):
            wait_s = _HOUSEKEEPING_PERIOD_S
            if fault := self._engine.fault:
                self._die(fault)
            try:
                if self._sender.cancel_abandoned():
                    wait_s = _SOON_S  # to show on the page what came of it
                self._publish()
                self._heartbeat.beat()
            except Exception:
                logger.exception("housekeeping failed; trying again")
        self._publish()  # what the last requests have come to

    def _publish(self) -> None:
        self._metrics.publish(self._engine.stats(), self._engine.observations.drain())

    def _die(self, fault: str) -> None:
        """End this process: Triton cannot be told that a model is at an end, but whoever watches it sees a stub go."""
        logger.critical("this instance ends: %s", fault)
        try:
            self._engine.stop(0.0, at_most_s=_LAST_WORDS_S)  # its requests are told, unless its thread hangs in a step
            time.sleep(_LAST_WORDS_S)  # for the sender
        finally:
            os._exit(_ENGINE_IS_LOST)


class _RefusedByPreprocess(Exception):  # noqa: N818
    """The ensemble's first step made no prompt."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.refused)
        self.is_internal = refusal.is_internal


def _refusal(request_id: str, error: Exception) -> tuple[str, int]:
    """Return the text and Triton status that tell a client why its request was not taken."""
    status = pb_utils.TritonError
    match error:
        case PromptTooLong():
            return encode_error(GenerationErrorCode.CONTEXT_LENGTH_EXCEEDED, str(error)), status.INVALID_ARG
        case _RefusedByPreprocess(is_internal=True):
            return str(error), status.INTERNAL
        case ContractError() | InvalidRequest() | StructureError() | _RefusedByPreprocess():
            return encode_error(GenerationErrorCode.INVALID_REQUEST, str(error)), status.INVALID_ARG
        case QueueFull():
            return encode_error(GenerationErrorCode.QUEUE_FULL, str(error)), status.UNAVAILABLE
        case EngineStopped():
            return encode_error(GenerationErrorCode.SHUTTING_DOWN, str(error)), status.UNAVAILABLE
        case _:
            logger.exception("request %s: not taken", request_id, exc_info=error)
            return "the server failed to take this request", status.INTERNAL


def _log_progress(name: str) -> Any:  # noqa: ANN401
    def log(done: int, total: int) -> None:
        logger.info("%s: layer %d of %d loaded", name, done, total)

    return log
