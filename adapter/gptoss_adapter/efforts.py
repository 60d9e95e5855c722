"""How much the model is to reason, from the words that clients have for it.

Stage: 2 validate → 3 prompt.
Owns: what each word comes to; that those of one chat agree.
Does not know: what holds the model to it; Anthropic's budgets (messages/plan.py).
"""

from __future__ import annotations

from gptoss_adapter.errors import invalid_value
from gptoss_adapter.schemas.chat import Effort, PromptFields, ReasoningOptions, TemplateFields
from gptoss_backend.contract import ReasoningEffort
from gptoss_backend.settings import ProfileSettings


def effort_of(asked: Effort) -> ReasoningEffort:
    """Return the effort for what a request calls it: between none and low there is nothing, nor above high."""
    match asked:
        case "minimal":
            return ReasoningEffort.LOW
        case "xhigh" | "max":
            return ReasoningEffort.HIGH
    return ReasoningEffort(asked)


def effort_of_chat(body: PromptFields, profile: ProfileSettings) -> ReasoningEffort:
    """Return what the chat asks for, else the profile's. Raises InvalidRequestError for words that differ."""
    template, options = body.chat_template_kwargs or TemplateFields(), body.reasoning or ReasoningOptions()
    switches = {"chat_template_kwargs.enable_thinking": template.enable_thinking, "reasoning.enabled": options.enabled}
    said: dict[str, Effort | None] = {
        "reasoning_effort": body.reasoning_effort,
        "chat_template_kwargs.reasoning_effort": template.reasoning_effort,
        "reasoning.effort": options.effort,
        **{param: "none" for param, is_on in switches.items() if is_on is False},
    }
    asked = [(param, effort) for param, effort in said.items() if effort is not None]
    for param, effort in asked[1:]:
        (first, one), other = asked[0], effort_of(effort)
        if other != effort_of(one):
            raise invalid_value(f"'{param}' ({effort}) and '{first}' ({one}) differ; send one of them.", param)
    chosen = effort_of(asked[0][1]) if asked else profile.reasoning_effort
    for param, is_on in switches.items():
        if is_on and chosen is ReasoningEffort.NONE:
            raise invalid_value(f"'{param}' is true, but the reasoning effort is none.", param)
    return chosen
