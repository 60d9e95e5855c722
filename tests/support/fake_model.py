"""A model without arithmetic: it lets the engine's whole machinery run in microseconds."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

import torch

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.edits import apply_edits
from gptoss_backend.engine.logprobs import token_logprobs
from gptoss_backend.engine.model import Draws, Edited, LaunchedStep, LocalModel, StepOutput, Told
from support.shapes import tiny_config


class FakeModel(LocalModel):
    """Says after each token its successor: (token + 1) % vocab. `gate` holds every step back while cleared."""

    def __init__(self, config: ModelConfig | None = None) -> None:
        self.config = config or tiny_config(sliding_window=32, max_positions=4096)
        self.device = torch.device("cpu")
        self.dtype = torch.float32
        self.gate = threading.Event()
        self.gate.set()
        self.fail_on: int | None = None
        self.batches: list[Batch] = []

    def allocate_cache(self, plan: CachePlan) -> None:
        """There is nothing to remember."""

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Name each sample's successor."""
        assert self.gate.wait(timeout=30)
        self.batches.append(batch)
        if self.fail_on is not None and self.fail_on in batch.token_ids:
            raise RuntimeError("a cosmic ray")
        best = [(batch.token_ids[index] + 1) % self.config.vocab_size for index in batch.samples]
        if not with_logits:
            return StepOutput(best, None)
        logits = torch.zeros(len(best), self.config.vocab_size)
        logits[range(len(best)), best] = 10.0
        return StepOutput(best, logits)


class FakePipelineModel(FakeModel):
    """The same with two steps under way, whose outputs come one after the other and do not say whose they are."""

    max_in_flight = 2

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        self._outcomes: deque[StepOutput | Exception] = deque()

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        """Compute it at once, and tell when it is the earliest."""
        try:
            self._outcomes.append(self.forward(batch, tables, with_logits=with_logits))
        except RuntimeError as error:
            self._outcomes.append(error)
        return _Earliest(self._outcomes)


@dataclass
class _Earliest:
    outcomes: deque[StepOutput | Exception]

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        raise NotImplementedError

    def result(self) -> StepOutput:
        outcome = self.outcomes.popleft()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class FakeAheadModel(FakeModel):
    """The same, asked for further tokens before it has told the ones before."""

    can_draw = True
    runs_ahead = True

    def __init__(self, config: ModelConfig | None = None) -> None:
        super().__init__(config)
        self.num_ahead = 0
        self.num_amended = 0
        self.latest: _Ahead | None = None
        self._last: Batch | None = None
        self._chosen: list[int] = []

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        """Take the token ids of a batch that follows from the last one."""
        if batch.follows:
            assert self._last is not None
            for place, token in enumerate(batch.token_ids):
                if token < 0:
                    before = self._last.samples[-1 - token]
                    assert batch.rows[place] == self._last.rows[before]
                    assert batch.positions[place] == self._last.positions[before] + 1
            self.num_ahead += 1
            ids = [self._chosen[-1 - token] if token < 0 else token for token in batch.token_ids]
            batch = replace(batch, token_ids=ids)
        output = self.forward(batch, tables, with_logits=True)
        self._last, self._chosen = batch, output.tokens
        self.latest = _Ahead(self, output, with_logits)
        return self.latest


@dataclass
class _Ahead:
    model: FakeAheadModel
    output: StepOutput
    wants_logits: bool

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        assert self.model.latest is self, "the next step has gone on without"
        assert not self.wants_logits
        self.model.num_amended += 1
        logits, tokens = self.output.logits, self.output.tokens
        assert logits is not None
        if edited is not None:
            rows = logits[edited.places]
            barren = frozenset(edited.barren(apply_edits(edited.edits, rows)))
            self.output = replace(self.output, edited=frozenset(edited.places), barren=barren)
            for place, token in zip(edited.places, rows.argmax(dim=-1).tolist(), strict=True):
                tokens[place] = token  # the next step's, too
        if told is not None:
            logprobs = token_logprobs(logits[told.places], [tokens[place] for place in told.places], told.counts)
            self.output = replace(self.output, logprobs=dict(zip(told.places, logprobs, strict=True)))

    def result(self) -> StepOutput:
        return self.output if self.wants_logits else replace(self.output, logits=None)
