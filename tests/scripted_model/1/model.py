"""A generation model that says what the user tells it to: the contract of `gpt_oss_*`, without weights.

The last user message is the answer, with Harmony's markers spelled out, `<|channel|>final<|message|>Hi<|return|>`, or a
JSON list of token ids. Typed by a user the markers reach the prompt as ordinary text; only here they become tokens.
A message that begins with `specials` is answered with the special tokens that the prompt holds. Parts apart by a line
`---` are said one after another: after each tool's result the next.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import (
    EVENT,
    EVENT_CODEC,
    PROMPT_IDS,
    SAMPLING,
    STOP_TOKENS,
    TEXT,
    TOKEN_IDS,
    Finished,
    FinishReason,
    GenerationEvent,
    Refusal,
    SamplingParams,
    Started,
    Timings,
    decode_sampling,
)
from gptoss_backend.harmony.vocabulary import END, FIRST_SPECIAL, MESSAGE, START, TextDecoder, encoding
from gptoss_backend.triton.tensors import bytes_tensor, ids_tensor, read_bytes, read_ids

BETWEEN_TURNS = "\n---\n"
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """What Triton calls."""

    def execute(self, requests: Sequence[Any]) -> None:
        """Answer each request, one token a response."""
        for request in requests:
            sender = request.get_response_sender()
            sampling = decode_sampling(read_bytes(request, SAMPLING))
            if isinstance(sampling, Refusal):
                error = pb_utils.TritonError(sampling.refused, pb_utils.TritonError.INVALID_ARG)
                sender.send(pb_utils.InferenceResponse(error=error), flags=FINAL)
            else:
                play(sender, list(read_ids(request, PROMPT_IDS)), sampling)


def play(sender: Any, prompt: list[int], sampling: SamplingParams) -> None:  # noqa: ANN401
    """Send the script's tokens, up to a stop token or the budget."""
    script = until_stop(read_script(prompt))
    tokens = script[: sampling.max_tokens]
    reason = FinishReason.LENGTH if len(tokens) < len(script) else FinishReason.STOP
    decoder = TextDecoder()
    send(sender, [], "", Started(len(prompt), 0))
    for token in tokens:
        send(sender, [token], decoder.push([token]))
    finished = Finished(reason, len(prompt), len(tokens), 0, Timings(0.0, 0.0, 0.0))
    send(sender, [], decoder.finish(), finished)


def read_script(prompt: list[int]) -> list[int]:
    """Return the tokens that the last user message asks for."""
    text = last_user_message(prompt)
    if text.startswith("specials"):
        specials = " ".join(str(token) for token in prompt if token >= FIRST_SPECIAL)
        text = f"<|channel|>final<|message|>{specials}<|return|>"
    if text.startswith("["):
        return [int(token) for token in json.loads(text)]
    parts = text.split(BETWEEN_TURNS)
    ids: list[int] = encoding().encode(parts[num_results(prompt) % len(parts)], allowed_special="all")
    return ids


def num_results(prompt: list[int]) -> int:
    """Return how many tool results the prompt holds; a conversation of one user message is meant."""
    return encoding().decode(prompt).count("<|start|>functions.")


def last_user_message(prompt: list[int]) -> str:
    """Return its text."""
    header = [START, *encoding().encode("user"), MESSAGE]
    starts = [at + len(header) for at in range(len(prompt)) if prompt[at : at + len(header)] == header]
    text: str = encoding().decode(list(itertools.takewhile(lambda token: token != END, prompt[starts[-1] :])))
    return text


def until_stop(script: list[int]) -> list[int]:
    """Return the script up to the first token at which the engine would end, that token included."""
    ends = [at for at, token in enumerate(script) if token in STOP_TOKENS]
    return script[: ends[0] + 1] if ends else script


def send(sender: Any, tokens: list[int], text: str, event: GenerationEvent | None = None) -> None:  # noqa: ANN401
    """Send one response."""
    raw_event = b"" if event is None else EVENT_CODEC.encode(event)
    tensors = [ids_tensor(TOKEN_IDS, tokens), bytes_tensor(TEXT, text.encode()), bytes_tensor(EVENT, raw_event)]
    sender.send(pb_utils.InferenceResponse(tensors), flags=FINAL if isinstance(event, Finished) else 0)
