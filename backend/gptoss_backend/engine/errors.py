"""What can go wrong inside the engine. Each message is one sentence that a user or operator can act on.

Stage: any. Owns: the tree of errors. Does not know: HTTP's or Triton's statuses, who is told.
"""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """Return what an error of torch says before it goes into details."""
    return str(error).partition("\n")[0]


class EngineError(Exception):
    """Base of the engine's errors."""


class CheckpointError(EngineError):
    """The checkpoint folder is missing, incomplete, corrupt or of another architecture."""


class InvalidRequest(EngineError):  # noqa: N818 (named after what the caller sees)
    """The request can never be served as it is."""


class StructureOutgrown(EngineError):  # noqa: N818
    """A request's mask, amid its answer: the grammar it stands for is larger than it may be."""


class PromptTooLong(InvalidRequest):
    """The prompt leaves no room for an answer in the context."""

    def __init__(self, prompt_tokens: int, max_model_len: int) -> None:
        # OpenAI's words, by which LiteLLM, OpenHands and others know that a shorter conversation will do
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens. "
            f"However, your prompt has {prompt_tokens} tokens. Please reduce its length."
        )


class QueueFull(EngineError):  # noqa: N818
    """As many requests wait as may; try again later."""


class CacheFull(EngineError):  # noqa: N818
    """The KV cache has no free block. The scheduler preempts on it; it never reaches a user."""


class EngineStopped(EngineError):  # noqa: N818
    """The engine is shutting down or its loop has died."""


class ModelLost(EngineError):  # noqa: N818
    """The model is at an end: a process that holds a part of it is gone, or its device computes no more."""
