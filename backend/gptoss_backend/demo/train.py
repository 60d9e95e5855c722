"""`python -m gptoss_backend.demo.train FOLDER`: train the demo model, and write FOLDER/demo.safetensors.

Owns: the run: progress, going on where an earlier run was interrupted, the mean that is written.
Does not know: what the dialogues say, how the model computes.

The same seed gives the same dialogues in the same order; torch's sums on several threads may differ in the last bits.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.demo.naming import WEIGHTS_FILE
from gptoss_backend.demo.rows import Spellings
from gptoss_backend.demo.shape import TRAINED_SHAPE, trained_config
from gptoss_backend.demo.training.batches import Batch, Batcher, known_tokens
from gptoss_backend.demo.training.export import export, known_of, restore
from gptoss_backend.demo.training.induction import guess_induction
from gptoss_backend.demo.training.model import TrainedModel
from gptoss_backend.demo.training.optimizer import RATE, optimizer_for
from gptoss_backend.demo.training.schedule import Schedule
from gptoss_backend.harmony.vocabulary import VOCAB_SIZE

_SEED: Final = 20
_BALANCE: Final = 0.01
_MOST_GRADIENT: Final = 1.0
_NUM_AVERAGED: Final = 2
"""Ends of descents; the first one's is behind the others by too much to help them."""
_KEPT_EVERY: Final = 5
_STATE_FILE: Final = "state.pt"
_PROCESSOR: Final = torch.device("cpu")


class Run:
    """A training run, whole in one file between blocks."""

    def __init__(
        self,
        num_blocks: int,
        seed: int,
        rate: float,
        first_weights: Path | None = None,
        device: torch.device = _PROCESSOR,
    ) -> None:
        """seed: of weights and dialogues. rate: of learning, at its highest. first_weights: an earlier run's file.

        device: to learn on.
        """
        torch.manual_seed(seed)
        self.schedule = Schedule(num_blocks)
        self.block = 0
        self.known = known_tokens(seed) if first_weights is None else known_of(first_weights)
        spellings = Spellings(TRAINED_SHAPE.hidden_size)
        self.model = TrainedModel(trained_config(), self.known, spellings)
        if first_weights is None:
            guess_induction(self.model)
        else:
            restore(self.model, first_weights)
        self.device = device
        self.model.move_to(device)
        self.optimizer = optimizer_for(self.model, rate)
        self.batcher = Batcher(self.known, spellings, seed)
        self.ends: list[dict[str, Tensor]] = []
        """The model's state at the end of each descent so far."""

    def learn_block(self) -> tuple[float, int]:
        """Learn from the next block; returns the mean loss and the number of tokens, padding included."""
        self._set_rates()
        losses, num_tokens = [], 0
        for batch in self.batcher.block(self.block):
            losses.append(self._learn(batch))
            num_tokens += batch.tokens.numel()
        if self.schedule.ends_descent(self.block):
            self.end_descent()
        self.block += 1
        return sum(losses) / len(losses), num_tokens

    def save(self, path: Path) -> None:
        """Write all that `resume` needs, or nothing."""
        partial = path.with_suffix(".partial")
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        state = {"block": self.block, "known": self.known, "model": model, "optimizer": optimizer, "ends": self.ends}
        torch.save(state, partial)
        partial.rename(path)

    def resume(self, path: Path) -> None:
        """Go on where a saved run was."""
        state: dict[str, Any] = torch.load(path, map_location="cpu")
        if "ends" not in state or not torch.equal(state["known"], self.known):
            raise SystemExit(f"{path} is of another run, by another schedule or over dialogues with other words")
        self.block = state["block"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ends = state["ends"]

    def end_descent(self) -> None:
        """Remember the weights as they are."""
        self.ends.append({name: weights.to("cpu", copy=True) for name, weights in self.model.state_dict().items()})

    def average(self) -> None:
        """Take the mean of the weights at the last descents' ends."""
        ends = self.ends[-_NUM_AVERAGED:]
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point():
                mean.copy_(torch.stack([end[name] for end in ends]).mean(dim=0))

    def _learn(self, batch: Batch) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, imbalance = loss_of(self.model, batch.to(self.device))
        (loss + _BALANCE * imbalance).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), _MOST_GRADIENT)
        self.optimizer.step()
        return loss.item()

    def _set_rates(self) -> None:
        self.model.quantized = self.schedule.rounds_experts(self.block)
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_lr"] * self.schedule.rate(self.block)


def loss_of(model: TrainedModel, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the mean cross entropy over the whole vocabulary, and the routers' imbalance."""
    is_target = batch.is_target[:, 1:]
    hidden, imbalance = model(batch.shared, batch.tokens[:, :-1], model.table(batch.others), is_target)
    targets = batch.tokens[:, 1:][is_target]
    num_known = len(model.known)
    mistaken = model.look_alikes(hidden[targets >= num_known])
    candidates = torch.cat((batch.others, mistaken[~torch.isin(mistaken, batch.others)]))
    logits = F.linear(hidden, model.output_table(candidates)).float()
    # the random tokens stand for all that are not named, each for many
    is_random = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
    is_random[num_known + batch.num_listed : num_known + len(batch.others)] = ~torch.isin(
        batch.others[batch.num_listed :], mistaken
    )
    each = (VOCAB_SIZE - int((~is_random).sum())) / int(is_random.sum())
    return F.cross_entropy(logits + is_random * math.log(each), targets), imbalance


def main() -> int:
    """Train; returns the exit status."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    run = Run(arguments.blocks, arguments.seed, arguments.rate, arguments.first_weights, arguments.device)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    state = arguments.folder / _STATE_FILE
    if state.exists():
        run.resume(state)
    while run.block < arguments.blocks:
        started_s = time.perf_counter()
        loss, num_tokens = run.learn_block()
        rate = num_tokens / (time.perf_counter() - started_s)
        sys.stdout.write(f"block {run.block} of {arguments.blocks}: loss {loss:.4f}, {rate:,.0f} tokens/s\n")
        sys.stdout.flush()
        if run.block % _KEPT_EVERY == 0 or run.block == arguments.blocks:
            run.save(state)
    run.average()
    run.model.move_to(_PROCESSOR)
    export(run.model, arguments.folder / WEIGHTS_FILE.name)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gptoss_backend.demo.train", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("folder", type=Path, help="of the run's state; an interrupted run goes on from it")
    parser.add_argument("--blocks", type=int, default=380, help="of 600 dialogues each [380]")
    parser.add_argument("--seed", type=int, default=_SEED, help=f"of weights and dialogues [{_SEED}]")
    parser.add_argument("--rate", type=float, default=RATE, help=f"of learning, at its highest [{RATE}]")
    parser.add_argument("--first-weights", type=Path, help="an earlier run's file to begin with [none]")
    parser.add_argument("--device", type=torch.device, default=_PROCESSOR, help="to train on [cpu]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
