"""The tokens of a step's samples where they are not, or not all, chosen inside a graph.

Stage 5 of a request: step. Owns: what is chosen by logits that lie on the device, edits, log probabilities, and their
way to the host. Does not know: what the edits are, how logits come about.

Nothing here waits for the device, so the next step can be launched behind it: log probabilities come to the host with
the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.drawing import ROWS_AT_ONCE
from gptoss_backend.engine.edits import apply_edits
from gptoss_backend.engine.kernels.sampling import Held, choose_tokens
from gptoss_backend.engine.kernels.step_inputs import DRAW_LINES
from gptoss_backend.engine.logprobs import tell, weigh
from gptoss_backend.engine.model import Draws, Edited, Told
from gptoss_backend.engine.token_bits import Bits, stacked
from gptoss_backend.engine.transfer import fetched, to_device


def chosen_by(logits: Tensor, draws: Draws | None, out: Tensor | None = None) -> Tensor:
    """Return the token of each row of logits, [n] int64, in `out` where there is one.

    logits: [n, vocab]; draws: None: the likeliest.
    """
    count, device = len(logits), logits.device
    tokens = torch.empty(count, dtype=torch.int64, device=device) if out is None else out
    if not count:
        return tokens
    if draws is None:
        numbers = torch.zeros(DRAW_LINES, count, dtype=torch.float64, device=device)
    else:
        numbers = to_device(draws.lines, torch.float64, device)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        choose_tokens(logits, numbers, tokens)
    return tokens


def choose_held(logits: Tensor, chosen: Tensor, places: list[int], bits: list[Bits], draws: Draws) -> None:
    """Choose some samples anew, in place in `chosen`, among the tokens that may come.

    logits: [num_samples, vocab]; places, bits, draws: of these samples.
    """
    numbers = to_device([*draws.lines, list(map(float, places))], torch.float64, logits.device)
    held = Held(numbers[DRAW_LINES], stacked(bits, logits.device))
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        choose_tokens(logits, numbers[:DRAW_LINES], chosen, held)


@dataclass(frozen=True, slots=True)
class Amended:
    """What is to be told of edits, and of log probabilities once they have come to the host."""

    edited: frozenset[int]
    """Samples that are chosen by edits"""
    barren: frozenset[int]
    """Those of which a grammar left nothing"""
    told: Told
    weighed: Tensor
    """As `logprobs.weigh` says"""

    @classmethod
    @torch.inference_mode()
    def of(cls, logits: Tensor, chosen: Tensor, edited: Edited | None, told: Told | None) -> Amended:
        """Choose the edited samples anew, in place in `chosen` [num_samples] int64. logits: [num_samples, vocab]."""
        edited = edited or Edited([], [], Draws.of_all([], []))
        told = told or Told([], [])
        reweighted = [index for index, each in enumerate(edited.edits) if each.reweights]
        held = [index for index, each in enumerate(edited.edits) if not each.reweights]
        barren = _hold(logits, chosen, edited.part(held)) if held else set[int]()
        for group in _groups(reweighted):
            barren |= _reweight(logits, chosen, edited.part(group))
        most = max(told.counts, default=0)
        weighed = [_weigh(logits, chosen, group, most) for group in _groups(told.places)]
        there = fetched(torch.cat(weighed)) if weighed else torch.empty(0)
        return cls(frozenset(edited.places), frozenset(barren), told, there)

    @property
    def logprobs(self) -> dict[int, TokenLogprob]:
        """By samples; once the host has it all."""
        if not self.told.places:
            return {}
        return dict(zip(self.told.places, tell(self.weighed, self.told.counts), strict=True))


def _groups(rows: list[int]) -> Iterator[list[int]]:
    """Yield which rows to look at side by side: all at once would take several times their logits in memory."""
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))


def _hold(logits: Tensor, chosen: Tensor, edited: Edited) -> set[int]:
    """Choose for rows whose logits stay as they are; returns those of which nothing is left."""
    found = [each.bits(logits.shape[1]) for each in edited.edits]
    bits = [each for each, _ in found if each is not None]
    assert len(bits) == len(found)  # noqa: S101 (else they were not due)
    choose_held(logits, chosen, edited.places, bits, edited.draws)
    return edited.barren([is_left for _, is_left in found])


def _reweight(logits: Tensor, chosen: Tensor, edited: Edited) -> set[int]:
    """Choose for rows whose logits are changed, in float32, whatever rows there are besides; returns the same."""
    places = to_device(edited.places, torch.int64, logits.device)
    rows = logits.index_select(0, places).float()
    barren = edited.barren(apply_edits(edited.edits, rows))
    chosen.index_copy_(0, places, chosen_by(rows, edited.draws))
    return barren


def _weigh(logits: Tensor, chosen: Tensor, places: list[int], most: int) -> Tensor:
    there = to_device(places, torch.int64, logits.device)
    return weigh(logits.index_select(0, there).float(), chosen.index_select(0, there), most)
