"""How likely the model thought a prompt's own tokens.

Stage 5 of a request: step. Owns: which rows of a step's output are of prompts, and what is told of them.
Does not know: how the next token is chosen, who asked.

Such a prompt is computed in chunks of at most `MAX_SCORED_ROWS` tokens, so that a step's logits stay small whatever the
prompt: [64, 201,088] in float32 are 51 MB. It shares no blocks of the cache, whose logits nobody kept.
"""

from __future__ import annotations

from gptoss_backend.engine.logprobs import token_logprobs
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.step import Step


def note_prompts(step: Step, output: StepOutput) -> StepOutput:
    """Note of the step's prompts how likely their tokens were, and return the rest of the output: of next tokens."""
    num_scored = step.num_scored
    if not num_scored:
        return output
    assert output.logits is not None  # noqa: S101 (they were asked for)
    num_sampled = place = len(output.tokens) - num_scored
    for part in step.prefills:
        known, request = part.sequence.prompt_logprobs, part.sequence.request
        rows = output.logits[place : place + len(part.scored)]
        place += len(part.scored)
        # what was computed again after a preemption is known already
        num_known = len(known) - part.scored.start if part.scored else 0
        count = request.sampling.prompt_logprobs
        if count is not None and num_known < len(part.scored):
            tokens = request.prompt_ids[part.scored.start + num_known + 1 : part.scored.stop + 1]
            known += token_logprobs(rows[num_known:], list(tokens), [count] * len(tokens))
    return StepOutput(output.tokens[:num_sampled], output.logits[:num_sampled])
