"""What a request changes in its own logits before a token is chosen.

Stage 5 of a request: step. Owns: the order of the changes: bias, penalties, allowed and barred tokens, grammar.
Does not know: sampling, other requests. Requests that change nothing have no `LogitEdits` and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gptoss_backend.contract import GenerationErrorCode, SamplingParams
from gptoss_backend.engine.grammar import Grammar, exclude
from gptoss_backend.engine.penalties import Penalties
from gptoss_backend.engine.transfer import sent


class LogitEdits:
    """One request's changes. Each token: `prepare`, then `apply_edits` where that says so, then `accept`."""

    @classmethod
    def of(
        cls, sampling: SamplingParams, prompt_ids: Iterable[int], stop_tokens: frozenset[int], grammar: Grammar | None
    ) -> LogitEdits | None:
        """Return what a request changes, None where it changes nothing. All tokens are within the vocabulary.

        stop_tokens: barred until `min_tokens`.
        """
        penalties = Penalties(sampling, prompt_ids) if Penalties.are_asked_for(sampling) else None
        is_asked = sampling.logit_bias or sampling.min_tokens or sampling.allowed_token_ids
        if penalties is None and grammar is None and not is_asked:
            return None
        return cls(sampling, penalties, stop_tokens, grammar)

    def __init__(
        self,
        sampling: SamplingParams,
        penalties: Penalties | None,
        stop_tokens: frozenset[int],
        grammar: Grammar | None,
    ) -> None:
        self._bias_ids = torch.tensor(list(sampling.logit_bias), dtype=torch.int64)
        self._biases = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
        self._penalties = penalties
        allowed = sampling.allowed_token_ids
        self._allowed_ids = None if allowed is None else torch.tensor(sorted(set(allowed)), dtype=torch.int64)
        self._stop_ids = torch.tensor(sorted(stop_tokens), dtype=torch.int64)
        self._num_barred = sampling.min_tokens if stop_tokens else 0
        """Tokens during which stop tokens may not come."""
        self._num_accepted = 0
        self._grammar = grammar
        self._has_mask = False
        self.is_due = False
        """True where the next token's logits are to be changed."""

    @property
    def is_finished(self) -> bool:
        """True where the grammar says that the answer is complete."""
        return self._grammar is not None and self._grammar.is_finished

    @property
    def fault(self) -> str | None:
        """A sentence, where the request cannot go on."""
        return None if self._grammar is None else self._grammar.fault

    @property
    def fault_code(self) -> GenerationErrorCode | None:
        """What the fault is to a client."""
        return None if self._grammar is None else self._grammar.fault_code

    def prepare(self) -> bool:
        """Get ready for the next token; True where its logits are to be changed."""
        self._has_mask = self._grammar is not None and self._grammar.prepare()
        is_excluding = self._has_mask or self._is_barring or self._allowed_ids is not None
        self.is_due = is_excluding or self._penalties is not None or len(self._bias_ids) > 0
        return self.is_due

    @property
    def mask(self) -> Grammar | None:
        """The grammar, where it has a say about the next token."""
        return self._grammar if self._has_mask else None

    def accept(self, token: int) -> None:
        """Note the token chosen."""
        self._num_accepted += 1
        if self._penalties is not None:
            self._penalties.count(token)
        if self._grammar is not None:
            self._grammar.accept(token)

    @property
    def _is_barring(self) -> bool:
        return self._num_accepted < self._num_barred

    def _weigh(self, row: Tensor) -> None:
        if len(self._bias_ids):
            row.index_add_(0, sent(self._bias_ids, row.device), sent(self._biases, row.device))
        if self._penalties is not None:
            self._penalties.apply(row)
        if self._allowed_ids is not None:
            _keep(row, sent(self._allowed_ids, row.device))

    def _bar(self, row: Tensor) -> None:
        if self._is_barring:
            stops = sent(self._stop_ids, row.device)
            logits = row[stops]
            row.index_fill_(0, stops, -torch.inf)
            # a grammar that is complete outweighs min_tokens; decided where the logits are, so that nobody waits
            row.index_copy_(0, stops, torch.where(row.amax() > -torch.inf, -torch.inf, logits))


def apply_edits(edits: list[LogitEdits], rows: Tensor) -> None:
    """Change the next tokens' logits in place, for each request its row; at least one stays finite.

    edits: those that have a mask first. rows: [n, vocab] float32. Of a device all masks together are waited for once.
    """
    for each, row in zip(edits, rows, strict=True):
        each._weigh(row)
    if grammars := [each.mask for each in edits if each.mask is not None]:
        exclude(grammars, rows[: len(grammars)])
    for each, row in zip(edits, rows, strict=True):
        each._bar(row)


def _keep(row: Tensor, ids: Tensor) -> None:
    """Set the logits of all other tokens to minus infinity, in place."""
    kept = row[ids]
    row.fill_(-torch.inf)
    row[ids] = kept
