"""A model on a GPU, or a GPU's shard of one, that replays its steps as CUDA graphs: one launch in place of hundreds.

Stage 5 of a request: step. Owns: the memory of what is recorded, its replaying.
Does not know: what a step computes, which is `TorchModel`'s; sequences.

A graph is a step of a fixed number of rows, in memory that stays where it is; a batch takes the smallest that holds it.
Decodes alone are recorded up to their tokens. Of a step with chunks of prompts or drafts the layers are, for numbers of
tokens that lie further apart; what follows its samples is then computed. What no graph holds is computed as
`TorchModel` does.

Parts of a layer add up and join inside a graph; stages of a pipeline take over and pass on outside. All shards of a
model record the same steps in the same order.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.eagle.head import FIRST_PAIR, DraftHead, TokenPlaces
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.experts import Addition
from gptoss_backend.engine.kernels.choosing import choose_held, chosen_by
from gptoss_backend.engine.kernels.dependent_launch import launch_dependently
from gptoss_backend.engine.kernels.embedding import look_up, take_chosen
from gptoss_backend.engine.kernels.experts import norm_and_mix
from gptoss_backend.engine.kernels.norm import Norm
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.recording import (
    MOST_DECODES,
    CudaRecorder,
    Recorder,
    Work,
    graph_sizes,
    pass_sizes,
)
from gptoss_backend.engine.kernels.replays import Recorded, Replayed, StepMemory
from gptoss_backend.engine.kernels.sampling import choose_tokens
from gptoss_backend.engine.kernels.skinny import MOST_ROWS
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, DeviceTables, PassRows
from gptoss_backend.engine.model import Draws, LaunchedStep
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.token_bits import all_bits
from gptoss_backend.engine.torch_model import ELSEWHERE, Group, Links, TorchModel
from gptoss_backend.engine.transfer import to_device

logger = logging.getLogger(__name__)

# one of each number of rows for which there is another kernel
_SAMPLES_COMPILED = (1, MOST_ROWS // 2, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1)


class GraphedModel(TorchModel):
    """A GPT-OSS with packed experts, or a shard of one, by the kernels in here."""

    can_draw = True

    def __init__(
        self,
        shard: Shard,
        weights: Weights,
        recorder: Recorder | None = None,
        operators: KernelOperators | None = None,
        *,
        group: Group | None = None,
        links: Links | None = None,
        cache_dtype: torch.dtype | None = None,
        dependent_launch: bool = False,
    ) -> None:
        """recorder: None: CUDA graphs. operators: None: what is best on the weights' device.

        group, links, cache_dtype: as in `TorchModel`. dependent_launch: in decode steps a kernel begins while the one
        before it ends, for GPUs that can (`has_dependent_launch`).
        """
        self._kernels = operators or KernelOperators(weights.layers[0].qkv_bias.device)
        super().__init__(shard, weights, group, operators=self._kernels, links=links, cache_dtype=cache_dtype)
        self._recorder = recorder
        self._dependent_launch = dependent_launch
        # a stage that has no tokens cannot go on with them
        self.runs_ahead = shard.is_first and shard.is_last
        self._steps: list[Recorded[DecodeRows]] = []
        self._passes: list[Recorded[PassRows]] = []
        self._guesses: list[Recorded[DecodeRows]] = []

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, and record steps on it. Raises EngineError."""
        super().allocate_cache(plan)
        self._tables = DeviceTables(plan, self.config.sliding_window, self.device)
        try:
            self._record_all(plan, self._recorder or CudaRecorder(self._side_stream))
            if self._recorder is None:
                self.compile_rest()
        except RuntimeError as error:
            # torch's own exception is one of these; what the driver says when a graph is made is another
            if "out of memory" not in str(error):
                raise
            raise EngineError(
                "the GPU has no memory left for CUDA graphs: lower engine.kv_cache_bytes, engine.max_num_seqs or "
                "engine.prefill_chunk_tokens, or set engine.cuda_graphs to false"
            ) from error

    def free_cache(self) -> None:
        """Let go of the memory for keys and values, and of the steps that are recorded on it."""
        self._steps.clear()
        self._passes.clear()
        self._guesses.clear()
        super().free_cache()

    @cached_property
    def _side_stream(self) -> torch.cuda.Stream:
        """What all is recorded on: each stream that has multiplied keeps 32 MiB of cuBLAS's for as long as we live."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        """Replay what is recorded of such a step, and compute the rest; of a shard, as `TorchModel.forward` says."""
        place = bisect_left(self._steps, batch.num_decodes, key=lambda step: step.rows.size)
        with torch.inference_mode():
            if batch.chunks or place == len(self._steps):
                return self._pass(batch, tables, with_logits=with_logits, draws=draws)
            step, count = self._steps[place], batch.num_decodes
            self._tables.follow(tables)
            step.rows.fill(batch, draws)
            hidden = self._replay(step, count)
            if not self._shard.is_last:
                self._finish(hidden, batch)
            if not self._shard.has_output:
                return ELSEWHERE
            return self._read(self._memory.chosen[:count], self._memory.logits[:count], with_logits=with_logits)

    @torch.inference_mode()
    def draft(self, batch: Batch, tables: BlockTables, num_tokens: int) -> list[list[int]]:
        """Let the head guess, as `Model.draft` says: what is recorded of it is one token, and replayed for each."""
        place = bisect_left(self._guesses, batch.num_decodes, key=lambda step: step.rows.size)
        if self._head is None or place == len(self._guesses):
            return super().draft(batch, tables, num_tokens)
        recorded, count = self._guesses[place], batch.num_decodes
        rows = recorded.rows
        self._tables.follow(tables)
        rows.fill(batch, None)
        self._memory.features[: rows.size] = self._head.features_before(self._places_of(rows))
        guessed = []
        for _ in range(num_tokens):
            recorded.replay()
            guessed.append(rows.token_ids[:count].clone())
        guesses: list[list[int]] = torch.stack(guessed, dim=1).tolist()
        return guesses

    def _look_up(self, token_ids: Tensor) -> Tensor:
        if self._shard.num_parts == 1:
            return super()._look_up(token_ids)
        table = self._weights.embedding
        assert table is not None  # noqa: S101 (the first part has it)
        return look_up(table, token_ids.to(self.device), self._residual_dtype)

    def _experts(self, hidden: Tensor, addition: Tensor, layer: LayerWeights) -> tuple[Tensor, Addition]:
        norm = Norm(layer.expert_norm, self.config.rms_norm_eps, self.dtype)
        return norm_and_mix(hidden, addition, norm, layer.experts, self._expert_shape)

    def _ids_of(self, batch: Batch) -> Tensor:
        token_ids = to_device(batch.token_ids, torch.int64, self.device)
        if batch.follows:
            take_chosen(token_ids, self._memory.chosen)
        return token_ids

    def _pass(self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None) -> LaunchedStep:
        recorded = next((recorded for recorded in self._passes if recorded.rows.holds(batch)), None)
        if recorded is None:
            hidden = self.run_layers(self._begin(batch), batch, tables)
        else:
            self._tables.follow(tables)
            recorded.rows.fill(batch)
            hidden = self._replay(recorded, len(batch.token_ids))
        logits = self._finish(hidden, batch)
        if logits is None:
            return ELSEWHERE
        assert len(logits) <= len(self._memory.chosen)  # noqa: S101 (the cache's plan says what a step computes at most)
        chosen = chosen_by(logits, draws, out=self._memory.chosen[: len(logits)])
        return self._read(chosen, logits, with_logits=with_logits)

    def _replay(self, recorded: Recorded[Any], count: int) -> Tensor:
        """Compute what is recorded for `count` tokens; returns the residual stream behind this shard's layers.

        It is in memory that the next replay writes to; where the graph goes on to tokens it says nothing.
        """
        if not self._shard.is_first:
            assert self._links is not None  # noqa: S101 (there is a stage before)
            incoming = self._memory.incoming[: recorded.rows.size]
            self._links.take_over(incoming[:count])
            incoming[count:] = incoming[0]  # for whoever stands in for the first token
        recorded.replay()
        return self._memory.hidden[:count]

    def _read(self, chosen: Tensor, logits: Tensor, *, with_logits: bool) -> Replayed:
        """Return a step under way. chosen: in the memory in which the next one looks for what it goes on with."""
        return Replayed(chosen, logits, self._group, wants_logits=with_logits)

    # --- recording ---

    @torch.inference_mode()
    def _record_all(self, plan: CachePlan, recorder: Recorder) -> None:
        passes, steps = pass_sizes(plan.max_step_tokens), graph_sizes(plan.num_rows)
        if plan.num_rows > MOST_DECODES:
            logger.warning("steps of more than %d rows, which there may be, are not recorded: slower", MOST_DECODES)
        self._memory = self._take_memory(steps[-1], max(steps + passes), max(*steps, *passes, plan.max_step_tokens))
        # the largest first: the pool's memory then suffices for the others
        for index, size in enumerate(reversed(passes), start=1):
            pass_rows = PassRows(size, steps[-1], self.device)
            self._passes.insert(0, Recorded(pass_rows, recorder(self._work_of_pass(pass_rows))))
            logger.info("recorded %d of %d graphs of passes: %d tokens", index, len(passes), size)
        for index, size in enumerate(reversed(steps), start=1):
            rows = DecodeRows(size, self.device)
            with launch_dependently(self._dependent_launch):
                self._steps.insert(0, Recorded(rows, recorder(self._work_of_step(rows))))
            logger.info("recorded %d of %d graphs of decodes: %d rows", index, len(steps), size)
        if self._head is not None:
            for size in reversed(graph_sizes(min(self._most_guessed_at, plan.num_rows))):
                rows = DecodeRows(size, self.device)
                self._guesses.insert(0, Recorded(rows, recorder(self._work_of_guess(self._head, rows))))
            logger.info("recorded %d graphs of guesses", len(self._guesses))

    def _take_memory(self, num_rows: int, num_tokens: int, num_samples: int) -> StepMemory:
        """num_rows, num_tokens: of recorded steps at most; num_samples: of any step."""
        config, has_logits = self._shard.whole, self._shard.is_last
        return StepMemory(
            incoming=self._empty_hidden(0 if self._shard.is_first else num_tokens).zero_(),
            hidden=self._empty_hidden(num_tokens),
            logits=torch.empty(num_rows * has_logits, config.vocab_size, dtype=self.dtype, device=self.device),
            chosen=torch.zeros(num_samples, dtype=torch.int64, device=self.device),
            features=self._empty_hidden(0) if self._head is None else self._head.empty_features(num_rows).zero_(),
        )

    def _work_of_pass(self, rows: PassRows) -> Work:
        """Return what computes the layers of a pass."""

        def compute() -> None:
            self._add(*self._layers_of(rows), out=self._memory.hidden[: rows.size])

        return compute

    def _work_of_guess(self, head: DraftHead, rows: DecodeRows) -> Work:
        """Return what guesses a token after each row, and leaves the rows as they are a token on."""
        features = self._memory.features[: rows.size]

        def compute() -> None:
            attention = self._kernels.recorded_attention(rows, self._tables, head.rope, self._memory.chosen, FIRST_PAIR)
            tokens, streams = head.guess(rows.token_ids, features, attention)
            features.copy_(streams)
            rows.token_ids.copy_(tokens)
            rows.positions.add_(1)

        return compute

    def _work_of_step(self, rows: DecodeRows) -> Work:
        """Return what computes a step of decodes: up to its tokens, in a stage before the last the layers."""
        logits, chosen = self._memory.logits[: rows.size], self._memory.chosen[: rows.size]

        def compute() -> None:
            stream = self._layers_of(rows)
            if not self._shard.is_last:
                self._add(*stream, out=self._memory.hidden[: rows.size])
                return
            self._logits(*stream, out=logits)
            if self._shard.is_first_part:  # which embeds them in a step that follows
                choose_tokens(logits, rows.draws, chosen)

        return compute

    def _layers_of(self, rows: DecodeRows | PassRows) -> tuple[Tensor, Addition | None]:
        attention = self._kernels.recorded_attention(rows, self._tables, self._rope, self._memory.chosen)
        is_first = self._shard.is_first
        hidden = self._embed(rows.token_ids) if is_first else self._memory.incoming[: rows.size]
        return self._through_layers(hidden, attention, None if self._head is None else self._places_of(rows))

    def _places_of(self, rows: DecodeRows | PassRows) -> TokenPlaces:
        """Return where a draft head keeps what it makes of a step's tokens."""
        table, plan = self._tables.full, self._tables.plan
        return TokenPlaces.at(rows.token_ids, rows.positions, rows.rows, rows.is_real, table, plan)

    @torch.inference_mode()
    def compile_rest(self) -> None:
        """Compute once what is not recorded, before a step or behind a pass, so that nobody waits for a compiler."""
        if not self._shard.is_last:
            return
        take_chosen(torch.zeros_like(self._memory.chosen), self._memory.chosen)
        logits = [self._logits(self._empty_hidden(num_samples).zero_()) for num_samples in _SAMPLES_COMPILED]
        for count in (1, 2):  # for an even number Triton compiles another kernel: the uniform numbers lie otherwise
            chosen_by(logits[1][:count], None)
            chosen_by(logits[1][:count].float(), None)  # whose logits were changed
            bits, draws = [all_bits(self.config.vocab_size)] * count, Draws.of_all([0.0] * count, [0.0] * count)
            choose_held(logits[1], self._memory.chosen, list(range(count)), bits, draws)
