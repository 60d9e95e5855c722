"""A model server that plays a script, in Triton's place behind the adapter."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gptoss_adapter.errors import refusal_of
from gptoss_adapter.inference import GenerationStep, ModelServerStatus, PromptIds
from gptoss_backend.contract import (
    Alternative,
    ChatRequest,
    Continued,
    Finished,
    FinishReason,
    SamplingParams,
    Started,
    Timings,
    TokenLogprob,
)
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.model_names import ModelName

CHAT_PROMPT = (200006, 1428, 200008, 17239, 200007, 200006, 173781)
"""What every chat is rendered to, unless it goes on with an answer that was begun."""
PROMPT_TOKENS = 7
CACHED_TOKENS = 3
STARTED = GenerationStep([], Started(PROMPT_TOKENS, CACHED_TOKENS))


@dataclass(frozen=True)
class Pause:
    """Silence in the middle of a script, in seconds."""

    seconds: float


FOREVER = Pause(3600)

Scene = GenerationStep | Exception | Pause


def finished(reason: FinishReason, completion_tokens: int) -> Finished:
    return Finished(reason, PROMPT_TOKENS, completion_tokens, CACHED_TOKENS, Timings(0.0, 0.0, 0.0))


def token_ids(harmony: str) -> list[int]:
    """Return the tokens of an answer in Harmony's notation, special tokens by name."""
    return encoding().encode(harmony, allowed_special="all")


def answer(harmony: str, *, reason: FinishReason = FinishReason.STOP, tokens_a_step: int = 1) -> list[Scene]:
    """Return the script of a whole answer."""
    ids = token_ids(harmony)
    steps = [ids[at : at + tokens_a_step] for at in range(0, len(ids), tokens_a_step)]
    last = GenerationStep(steps[-1] if steps else [], finished(reason, len(ids)))
    return [STARTED, *(GenerationStep(step) for step in steps[:-1]), last]


def scored(scenes: Sequence[Scene]) -> list[Scene]:
    """Return the script with log probabilities: of each token -0.5, of the token after it -1.5."""
    return [_scored(scene) if isinstance(scene, GenerationStep) else scene for scene in scenes]


def _scored(step: GenerationStep) -> GenerationStep:
    logprobs = tuple(TokenLogprob(token, -0.5, (Alternative(token + 1, -1.5),)) for token in step.token_ids)
    if step.event is None:
        return replace(step, event=Continued(logprobs))
    return replace(step, event=replace(step.event, logprobs=logprobs))


HELLO = answer(
    "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
)


@dataclass
class FakeModelServer:
    """Plays `script` to every request and remembers what it was asked."""

    script: Sequence[Scene] = field(default_factory=lambda: HELLO)
    scripts: list[Sequence[Scene]] = field(default_factory=list)
    """Played before `script`, one a request."""
    preprocess_error: Exception | None = None
    preprocess_takes_s: float = 0.0
    num_rendering: int = 0
    """Prompts that somebody waits for."""
    status_now: ModelServerStatus = field(default_factory=lambda: ModelServerStatus(True, "2.51.0", ()))
    chats: list[ChatRequest] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=list)
    models: list[ModelName] = field(default_factory=list)
    samplings: list[SamplingParams] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    streams: list[FakeStream] = field(default_factory=list)
    closed: bool = False

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        if self.preprocess_error is not None:
            raise self.preprocess_error
        self.chats.append(chat)
        self.request_ids.append(request_id)
        self.num_rendering += 1
        try:
            await asyncio.sleep(self.preprocess_takes_s)
        finally:
            self.num_rendering -= 1
        prompt = _begun_prompt(chat) if chat.continues_last else CHAT_PROMPT
        return PromptIds(struct.pack(f"<{len(prompt)}i", *prompt))

    def generate(self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str) -> FakeStream:
        self.prompts.append([token for (token,) in struct.iter_unpack("<i", prompt.raw)])
        self.models.append(model)
        self.samplings.append(sampling)
        self.request_ids.append(request_id)
        self.streams.append(FakeStream(list(self.scripts.pop(0) if self.scripts else self.script)))
        return self.streams[-1]

    def forget(self) -> None:
        """Play HELLO again, and forget what was asked."""
        self.script = HELLO
        self.preprocess_error = None
        self.preprocess_takes_s = 0.0
        for memory in (
            self.scripts,
            self.chats,
            self.prompts,
            self.models,
            self.samplings,
            self.request_ids,
            self.streams,
        ):
            memory.clear()

    async def status(self) -> ModelServerStatus:
        return self.status_now

    async def close(self) -> None:
        self.closed = True


def _begun_prompt(chat: ChatRequest) -> list[int]:
    try:
        return render_prompt(chat)
    except PromptError as error:
        raise refusal_of(str(error)) from error


class FakeStream:
    """One playing of a script."""

    def __init__(self, scenes: list[Scene]) -> None:
        self._scenes = iter(scenes)
        self.ended = False
        self.cancelled = False

    @property
    def abandoned(self) -> bool:
        """Whether it was cancelled before its end."""
        return self.cancelled and not self.ended

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> GenerationStep:
        for scene in self._scenes:
            await asyncio.sleep(scene.seconds if isinstance(scene, Pause) else 0)
            if isinstance(scene, Exception):
                raise scene
            if isinstance(scene, GenerationStep):
                return scene
        self.ended = True
        raise StopAsyncIteration

    def cancel(self) -> None:
        self.cancelled = True
