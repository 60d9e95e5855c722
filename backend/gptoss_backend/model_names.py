"""The models that can be served, under all their names.

Stage: every one that names a model.
Owns: what a model is called by people, by OpenAI's clients, in Triton's repository, and elsewhere.
Does not know: which are served, where their weights are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ModelShort = Literal["demo", "20b", "120b"]


@dataclass(frozen=True, slots=True)
class ModelName:
    """One servable size under its three names."""

    short: ModelShort
    """As `gptoss serve --model` takes it."""
    openai: str
    """As the OpenAI API and its clients name it."""
    triton: str
    """The decoupled generation model in the repository."""

    @property
    def elsewhere(self) -> tuple[str, str]:
        """What it is called on Hugging Face, so by vLLM's clients, and by Ollama."""
        return f"openai/{self.openai}", f"gpt-oss:{self.short}"

    @property
    def ensemble(self) -> str:
        """The ensemble preprocess → generation, for clients that speak to Triton directly."""
        return f"{self.triton}_chat"


MODELS: Final = (
    ModelName("demo", "gpt-oss-demo", "gpt_oss_demo"),
    ModelName("20b", "gpt-oss-20b", "gpt_oss_20b"),
    ModelName("120b", "gpt-oss-120b", "gpt_oss_120b"),
)
MODEL_ALIAS: Final = "gpt-oss"
"""Names whatever model a request's profile runs on."""
MODELS_BY_SHORT: Final = {model.short: model for model in MODELS}
MODELS_BY_TRITON: Final = {model.triton: model for model in MODELS}
