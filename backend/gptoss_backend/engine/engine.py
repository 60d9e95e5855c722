"""The engine: one thread that owns the device, to which others talk by its inbox.

Stages 4 and 5 of a request: schedule, step. Owns: the loop, and the steps and requests under way.
Does not know: Triton, HTTP, text. What it has to say goes to one sink, called on its thread, which must not block.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from gptoss_backend.contract import GenerationErrorCode
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.cache_plan import CacheLimits
from gptoss_backend.engine.cache_sizing import describe
from gptoss_backend.engine.checkpoint import Progress
from gptoss_backend.engine.errors import ModelLost
from gptoss_backend.engine.guessing import Guesser
from gptoss_backend.engine.inbox import Inbox
from gptoss_backend.engine.intake import Intake
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.ledger import Ledger
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.model import LaunchedStep, Model, ModelInfo
from gptoss_backend.engine.news import News, cancellation, expiry, failure, news_of
from gptoss_backend.engine.observations import EngineStats
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.prompt_scores import note_prompts
from gptoss_backend.engine.sampler import Sampler
from gptoss_backend.engine.sampling_metadata import draws_of, edited_of, prepare_edits, told_of, wants_logits
from gptoss_backend.engine.scheduler import Scheduler
from gptoss_backend.engine.sequence import GenerationRequest, Sequence, TokenDelta
from gptoss_backend.engine.step import Step, Turn

logger = logging.getLogger(__name__)

Sink = Callable[[list[TokenDelta]], None]


class _UnderWay(NamedTuple):
    step: Step
    turns: list[Turn]
    launched: LaunchedStep
    has_logits: bool
    launched_s: float


class Engine:
    """Continuous batching over one model. `submit`, `cancel` and `stats` may be called from any thread."""

    def __init__(self, model: Model, options: EngineOptions, sink: Sink) -> None:
        """sink: called on the engine's thread with each step's news, in the order in which it happened."""
        self._model = model
        self._sink = sink
        self._sampler = Sampler()
        self._cache = _make_cache(model, options)
        self.max_model_len = self._cache.plan.max_model_len
        self._intake = Intake(model.config, self._cache.plan, options)
        self._scheduler = Scheduler(
            self._cache,
            options.prefill_chunk_tokens,
            options.priority_step_s,
            Guesser(options.speculation, options.phrases, self._draft if model.can_draft else None),
            num_micro_batches=model.max_in_flight,
        )
        self._inbox = Inbox(options.max_num_seqs + options.max_queue)
        self._ledger = Ledger(num_cache_blocks=self._cache.plan.num_full_blocks - 1, max_model_len=self.max_model_len)
        self.observations = self._ledger.observations
        self._fault: str | None = None  # written once, by the engine's thread
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # what follows is that thread's alone
        self._by_id: dict[str, Sequence] = {}
        self._launched: deque[_UnderWay] = deque()
        self._done_s = 0.0  # the last step
        self._next_deadline_s = math.inf  # no request's is sooner

    @classmethod
    def load(
        cls,
        folder: Path,
        options: EngineOptions,
        sink: Sink,
        *,
        device: torch.device,
        placement: PlacementOptions | None = None,
        progress: Progress | None = None,
    ) -> Engine:
        """Load a checkpoint folder and make an engine of it. Raises EngineError with one sentence."""
        return cls(load_model(folder, options, device=device, placement=placement, progress=progress), options, sink)

    @property
    def is_alive(self) -> bool:
        """True while the loop runs."""
        return self._thread.is_alive()

    @property
    def info(self) -> ModelInfo | None:
        """What the model is and where."""
        return self._model.info

    @property
    def fault(self) -> str | None:
        """Why the engine is at an end though nobody stopped it, in one sentence; None while it is not."""
        return self._model.fault or self._fault

    def start(self) -> None:
        """Start the loop. What was submitted before meets in its first steps."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; its deltas go to the sink. Does not block.

        Raises InvalidRequest (PromptTooLong among them), QueueFull or EngineStopped; then nothing was queued.
        """
        self._inbox.check_room()  # before a prompt is looked at, which takes time that those under way would miss
        self._inbox.put(self._intake.sequence_of(request))

    def cancel(self, request_id: str) -> None:
        """Ask for a request to end before its next step. Does nothing where it has ended already. Does not block."""
        self._inbox.cancel(request_id)

    def stop(self, drain_s: float, *, at_most_s: float | None = None) -> None:
        """Take no more requests, let those under way run on for up to `drain_s`, end the rest, join the thread.

        at_most_s: give up after that long, where the thread may hang in a step that never ends.
        """
        self._inbox.stop(time.monotonic() + drain_s)
        if self._thread.is_alive():
            self._thread.join(at_most_s)
        if not self._thread.is_alive():
            self._model.close()

    def stats(self) -> EngineStats:
        """Return a copy of the counts."""
        return self._ledger.copy(self._inbox.busy_since_s)

    def step(self) -> None:
        """Launch as many batches as the model takes in at once, and tell the sink what came of the earliest."""
        while len(self._launched) < self._model.max_in_flight and self._launch(self._scheduler.next_step()):
            pass
        if not self._launched:
            return
        under_way = self._launched.popleft()
        step, turns = under_way.step, under_way.turns
        if self._model.runs_ahead:
            self._run_ahead(under_way)
        output = under_way.launched.result()
        self._note_pace(under_way)
        choices = self._sampler.pick(note_prompts(step, output), turns)
        self._scheduler.advance(step, choices)
        self._tell(step, news_of(step, choices, time.monotonic()))

    def _note_pace(self, under_way: _UnderWay) -> None:
        """Note how long a step took that is done; from the end of the one before, if it was under way with that."""
        done_s = time.monotonic()
        took_s = done_s - max(under_way.launched_s, self._done_s)
        self._done_s = done_s
        self._scheduler.pace.note(sum(part.num_tokens for part in under_way.step.prefills), took_s)

    def _run_ahead(self, under_way: _UnderWay) -> None:
        """Amend a step under way by what its grammars say now, and launch the next one behind it.

        The tokens before it are known by now. A step whose logits we look at is neither amended nor followed.
        """
        turns = under_way.turns
        prepare_edits(turns)  # grammars take time, which the device has
        if under_way.has_logits:
            return
        edited, told = edited_of(turns), told_of(turns)
        if edited is not None or told is not None:
            under_way.launched.amend(edited, told)
        following = self._scheduler.step_after(under_way.step)
        if following is not None:
            self._launch(following)

    def _launch(self, step: Step) -> bool:
        """Begin a step; False where there is nothing to compute that is not under way."""
        if not step:
            return False
        launched_s = time.monotonic()
        batch, turns = Batch.build(step.decodes, step.parts), step.turns
        if not self._model.runs_ahead:  # such a one is told of edits later
            prepare_edits(turns)
        with_logits = self._looks_at_logits(step, turns)
        draws = draws_of(turns) if self._model.can_draw and not with_logits else None
        launched = self._model.launch(batch, self._cache, with_logits=with_logits, draws=draws)
        step.note_launched()
        self._launched.append(_UnderWay(step, turns, launched, with_logits, launched_s))
        return True

    def _looks_at_logits(self, step: Step, turns: list[Turn]) -> bool:
        chooses = not self._model.runs_ahead and wants_logits(turns, can_draw=self._model.can_draw)
        return step.num_scored > 0 or chooses

    def _draft(self, sequences: list[Sequence], num_tokens: int) -> list[list[int]]:
        return self._model.draft(Batch.build(sequences, []), self._cache, num_tokens)

    # --- the loop: everything below runs on the engine's thread ---

    def _run(self) -> None:
        try:
            while self._take_commands():
                started_s = time.monotonic()
                self._guarded_step()
                self._ledger.counts.busy_s += time.monotonic() - started_s
                self._ledger.note_state(self._scheduler, self._cache)
        except ModelLost as error:
            self._fault = str(error)
        except BaseException as error:
            self._fault = f"the engine's loop failed: {type(error).__name__}"
            raise
        finally:
            self._fail_all(self._fault or "the engine has stopped")

    def _take_commands(self) -> bool:
        """Take in new and cancelled requests, waiting for some while idle; False when it is time to end."""
        new, cancelled, stop_at_s = self._inbox.take(is_idle=not self._by_id)
        for sequence in new:
            self._by_id[sequence.request.request_id] = sequence
            self._next_deadline_s = min(self._next_deadline_s, sequence.deadline_s)
            self._scheduler.add(sequence)
        self._cancel(cancelled)
        self._expire(time.monotonic())
        return stop_at_s is None or (bool(self._by_id) and time.monotonic() < stop_at_s)

    def _cancel(self, request_ids: set[str]) -> None:
        found = [self._by_id[request_id] for request_id in request_ids if request_id in self._by_id]
        for sequence in found:
            self._scheduler.remove(sequence)
            self._ledger.counts.num_cancelled += 1
        self._end([cancellation(sequence) for sequence in found])

    def _expire(self, now_s: float) -> None:
        """End the requests whose time has run out. Looks through them only when one of them may have."""
        if now_s < self._next_deadline_s:
            return
        late = [sequence for sequence in self._by_id.values() if sequence.deadline_s <= now_s]
        for sequence in late:
            self._scheduler.remove(sequence)
        self._ledger.counts.num_expired += len(late)
        self._end([expiry(sequence) for sequence in late])
        self._next_deadline_s = min((sequence.deadline_s for sequence in self._by_id.values()), default=math.inf)

    def _guarded_step(self) -> None:
        try:
            self.step()
        except ModelLost:
            raise
        except Exception:  # one failed step must not end the service: those it concerned are told
            logger.exception("a step failed; its requests end with an error")
            self._forget_launched()
            self._model.check()
            for sequence in self._scheduler.running:
                self._scheduler.remove(sequence)
            # those, too, that the step had taken out before it failed: they would never be heard of again
            concerned = [sequence for sequence in self._by_id.values() if sequence not in self._scheduler]
            self._fail(concerned, "the model failed while computing this request")

    def _forget_launched(self) -> None:
        """Wait for the steps under way: left alone, what they give would be taken for later ones'. Raises ModelLost."""
        while self._launched:
            launched = self._launched.popleft().launched
            try:
                launched.result()
            except ModelLost:
                raise
            except Exception:
                logger.exception("a step that was under way failed, too")

    def _tell(self, step: Step, news: News) -> None:
        """Let go of the requests that a step ended, and tell the sink what came of it."""
        self._ledger.note_step(step, news)
        for sequence in news.ended:
            self._scheduler.remove(sequence)
        self._sink(news.deltas)
        self._end(news.finished)
        self._end(news.failed)

    def _fail_all(self, sentence: str) -> None:
        unseen = self._inbox.close()
        left = list(self._by_id.values())
        for sequence in left:
            self._scheduler.remove(sequence)
        self._fail([*left, *unseen], sentence, GenerationErrorCode.SHUTTING_DOWN)
        self._ledger.note_state(self._scheduler, self._cache)

    def _fail(self, sequences: list[Sequence], sentence: str, code: GenerationErrorCode | None = None) -> None:
        self._ledger.counts.num_failed += len(sequences)
        self._end([failure(sequence, sentence, code) for sequence in sequences])

    def _end(self, deltas: list[TokenDelta]) -> None:
        """Say the last word on each request."""
        if not deltas:
            return
        for delta in deltas:
            self._by_id.pop(delta.request_id, None)
        self._inbox.note_ended(len(deltas))
        self._sink(deltas)


def _make_cache(model: Model, options: EngineOptions) -> KVCache:
    limits = CacheLimits(
        block_size=options.block_size,
        num_rows=options.max_num_seqs,
        max_step_tokens=_most_step_tokens(options),
        max_steps=model.max_in_flight + int(model.runs_ahead),
        max_model_len=options.max_model_len,
        kv_cache_bytes=options.kv_cache_bytes,
    )
    plan = model.plan_cache(limits)
    most = model.config.max_positions
    logger.info(describe(plan, min(options.max_model_len or most, most)))
    model.allocate_cache(plan)
    cache = KVCache(plan, model.config.sliding_window)
    model.rehearse(cache)
    return cache


def _most_step_tokens(options: EngineOptions) -> int:
    """Return what a step computes at most: all that may decode, beside them a chunk of prompts or what is guessed."""
    num_guessed = 0
    if (limits := options.speculation) is not None:
        num_seqs = min(limits.max_seqs, options.max_num_seqs)
        num_guessed = num_seqs * max(limits.num_tokens, options.phrases.longest)
    return options.max_num_seqs + max(options.prefill_chunk_tokens, num_guessed)
