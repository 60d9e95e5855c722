"""The tokens of a step's samples where they are not, or not all, chosen inside a graph.

Stage 5 of a request: step. Owns: what is chosen by logits that lie on the device, edits, log probabilities, and their
way to the host. Does not know: what the edits are, how logits come about.

Nothing here waits for the device, so the next step can be launched behind it: what has to be told of the edits comes to
the host with the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.drawing import ROWS_AT_ONCE
from gptoss_backend.engine.edits import apply_edits
from gptoss_backend.engine.kernels.sampling import choose_tokens
from gptoss_backend.engine.kernels.step_inputs import DRAW_LINES
from gptoss_backend.engine.logprobs import tell, weigh
from gptoss_backend.engine.model import Draws, Edited, Told
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


@dataclass(frozen=True, slots=True)
class Amended:
    """What the host has to be told of edits and log probabilities, on its way there."""

    edited: frozenset[int]
    """Samples that are chosen by edits"""
    masked: list[int]
    """Those that have a mask"""
    is_left: Tensor
    """[num_masked] bool: which of these have something left"""
    told: Told
    weighed: Tensor
    """As `logprobs.weigh` says"""

    @classmethod
    @torch.inference_mode()
    def of(cls, logits: Tensor, chosen: Tensor, edited: Edited | None, told: Told | None) -> Amended:
        """Choose the edited samples anew, in place in `chosen` [num_samples] int64. logits: [num_samples, vocab]."""
        edited = edited or Edited([], [], Draws.of_all([], []))
        told = told or Told([], [])
        masked, is_left = list[int](), list[Tensor]()
        for reweights in (False, True):  # a row's sums are rounded otherwise in float32: that is for itself to say
            alike = [index for index, each in enumerate(edited.edits) if each.reweights is reweights]
            for group in _groups(alike):
                masked += [edited.places[index] for index in group if edited.edits[index].mask is not None]
                is_left.append(_choose_anew(logits, chosen, edited.part(group), in_float32=reweights))
        most = max(told.counts, default=0)
        weighed = [_weigh(logits, chosen, group, most) for group in _groups(told.places)]
        return cls(frozenset(edited.places), masked, _joined(is_left), told, _joined(weighed))

    @property
    def barren(self) -> frozenset[int]:
        """Samples of which nothing was left; once the host has it all."""
        flags = zip(self.masked, self.is_left.tolist(), strict=True)
        return frozenset(place for place, is_left in flags if not is_left)

    @property
    def logprobs(self) -> dict[int, TokenLogprob]:
        """By samples; once the host has it all."""
        if not self.told.places:
            return {}
        return dict(zip(self.told.places, tell(self.weighed, self.told.counts), strict=True))


def _groups(rows: list[int]) -> Iterator[list[int]]:
    """Yield which rows to look at side by side: all at once would take several times their logits in memory."""
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))


def _choose_anew(logits: Tensor, chosen: Tensor, edited: Edited, *, in_float32: bool) -> Tensor:
    places = to_device(edited.places, torch.int64, logits.device)
    rows = logits.index_select(0, places)
    if in_float32:  # else the logits' own dtype holds all, and its filters are found sooner
        rows = rows.float()
    is_left = apply_edits(edited.edits, rows)
    chosen.index_copy_(0, places, chosen_by(rows, edited.draws))
    return is_left


def _weigh(logits: Tensor, chosen: Tensor, places: list[int], most: int) -> Tensor:
    there = to_device(places, torch.int64, logits.device)
    return weigh(logits.index_select(0, there).float(), chosen.index_select(0, there), most)


def _joined(parts: list[Tensor]) -> Tensor:
    return fetched(torch.cat(parts)) if parts else torch.empty(0)
