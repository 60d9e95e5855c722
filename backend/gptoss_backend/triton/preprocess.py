"""The `preprocess` model: CHAT → PROMPT_IDS and SAMPLING.

Stage: 3 prompt.
Owns: what a faulty request is answered with.
Does not know: torch, the generation models, HTTP.

A pure function of its input, so Triton may answer it from its response cache.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    PROMPT_IDS,
    REFUSAL_CODEC,
    SAMPLING,
    SAMPLING_CODEC,
    ChatMessage,
    ChatRequest,
    ContractError,
    Refusal,
    Role,
    SamplingParams,
)
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.schemas import StructureError
from gptoss_backend.triton.heartbeat import Heartbeat, HeartbeatThread
from gptoss_backend.triton.logs import log_to_triton
from gptoss_backend.triton.tensors import bytes_tensor, ids_tensor, read_bytes

logger = logging.getLogger(__name__)

_NO_PROMPT: Final = (0,)  # beside a refusal; Triton's cache takes no empty tensor and says so in the log each time


class Preprocess:
    """What Triton calls, in one process per instance, from one thread."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the vocabulary, so that no request waits for it."""
        log_to_triton()
        render_prompt(ChatRequest(messages=(ChatMessage(role=Role.USER, content=""),)))
        self._heartbeat = HeartbeatThread(Heartbeat(args["model_name"], args["model_instance_name"]))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        """Answer each request by itself: none harms another."""
        return [_answer(request) for request in requests]

    def finalize(self) -> None:
        """Join the thread."""
        self._heartbeat.close()


def _answer(request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
    try:
        chat = CHAT_CODEC.decode(read_bytes(request, CHAT))
        return _response(render_prompt(chat), SAMPLING_CODEC.encode(_sampling(chat)))
    except (ContractError, PromptError, StructureError) as error:
        return _response(_NO_PROMPT, REFUSAL_CODEC.encode(Refusal(str(error))))
    except Exception:  # what escapes here would fail the whole batch
        logger.exception("preprocess failed on request %r", request.request_id())
        refusal = Refusal("the prompt could not be made; the server's log says why", is_internal=True)
        return _response((), REFUSAL_CODEC.encode(refusal))  # empty, so not kept by the cache: the fault may pass


def _sampling(chat: ChatRequest) -> SamplingParams:
    """Return the chat's sampling with what binds the answer. Raises PromptError or StructureError."""
    structure = output_structure(chat) or chat.sampling.structure
    if structure is not None:
        check_structure(structure)
    return replace(chat.sampling, structure=structure)


def _response(prompt_ids: Sequence[int], sampling: bytes) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse([ids_tensor(PROMPT_IDS, prompt_ids), bytes_tensor(SAMPLING, sampling)])
