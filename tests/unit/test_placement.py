"""A model over several processes: real ones, joined by gloo."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import EngineError, EngineStopped
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.driver import DistributedModel
from gptoss_backend.engine.placement.jobs import Job, spawn
from gptoss_backend.engine.placement.layout import SpreadMode, divide
from gptoss_backend.engine.precision import FLOAT8
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from support.generating import generate
from support.ports import free_port
from support.ranks import pids_of_ranks
from support.shapes import published_config
from support.stepping import CPU, load_torch_model, prompt_of

# five blocks of inner channels and a vocabulary that divide over neither 2 nor 4
SHAPE = Shape(
    hidden_size=64,
    num_layers=5,
    num_experts=6,
    num_heads=8,
    num_kv_heads=4,
    intermediate_size=160,
    head_dim=16,
    vocab_size=517,
    max_positions=2048,
)
OPTIONS = EngineOptions(max_num_seqs=8, prefill_chunk_tokens=64, kv_cache_bytes=8 * 2**20)
PROMPTS = [prompt_of(length, seed=length) for length in (3, 17, 40, 130, 200, 64, 5)]
NUM_TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("placement") / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=5, name="test")
    return folder


def spread(
    folder: Path,
    mode: SpreadMode,
    num_ranks: int,
    cache_dtype: torch.dtype | None = None,
    *,
    packed: bool = False,
    timeout_s: float = 60.0,
) -> DistributedModel:
    shards = divide(ModelConfig.from_folder(folder), mode, num_ranks)
    cluster = Cluster((CPU,) * num_ranks, num_ranks, timeout_s=timeout_s)
    return DistributedModel(folder, shards, cluster, torch.float32, cache_dtype=cache_dtype, packed=packed)


@pytest.mark.parametrize(("mode", "num_ranks"), [("pipeline", 2), ("tensor", 2), ("tensor", 4)])
def test_tokens_when_a_model_is_spread_then_they_are_those_of_one_device(
    mode: SpreadMode, num_ranks: int, folder: Path
) -> None:
    greedy, _ = generate(load_torch_model(folder), PROMPTS, NUM_TOKENS, OPTIONS)
    assert generate(spread(folder, mode, num_ranks), PROMPTS, NUM_TOKENS, OPTIONS)[0] == greedy


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_tokens_when_a_spread_model_samples_then_they_are_those_of_one_device(mode: SpreadMode, folder: Path) -> None:
    sampling = {"temperature": 1.0, "seed": 3, "logprobs": 2}
    expected, _ = generate(load_torch_model(folder), PROMPTS[:3], 12, OPTIONS, **sampling)
    assert generate(spread(folder, mode, 2), PROMPTS[:3], 12, OPTIONS, **sampling)[0] == expected


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_tokens_when_a_spread_model_s_cache_is_float8_then_they_are_those_of_one_device(
    mode: SpreadMode, folder: Path
) -> None:
    alone = load_torch_model(folder, cache_dtype=FLOAT8)
    expected, _ = generate(alone, PROMPTS[:3], 8, OPTIONS)
    assert generate(spread(folder, mode, 2, FLOAT8), PROMPTS[:3], 8, OPTIONS)[0] == expected


class Listening:
    """An engine over a spread model, and what it says."""

    def __init__(self, model: DistributedModel, options: EngineOptions = OPTIONS) -> None:
        self.model = model
        self.said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
        self.engine = Engine(model, options, self.said.put)
        self.engine.start()

    def submit(self, name: str, prompt: list[int], max_tokens: int) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        self.engine.submit(GenerationRequest(name, prompt, sampling))

    def until(self, condition: Callable[[TokenDelta], bool]) -> TokenDelta:
        """Return the first delta for which it holds."""
        while True:
            for delta in self.said.get(timeout=30):
                if condition(delta):
                    return delta


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_engine_when_a_rank_is_killed_then_requests_end_with_the_reason_and_so_does_the_engine(
    mode: SpreadMode, folder: Path
) -> None:
    running = Listening(spread(folder, mode, 2))
    running.submit("one", PROMPTS[0], max_tokens=1500)
    running.until(lambda delta: bool(delta.token_ids))
    [pid] = pids_of_ranks()
    killed_s = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    last = running.until(lambda delta: delta.is_last)
    assert time.monotonic() - killed_s < 5.0
    assert last.error == running.engine.fault == "rank 1 of 2 died of signal 9"
    with pytest.raises(EngineStopped):
        running.submit("two", PROMPTS[0], max_tokens=5)
    running.engine.stop(0.0)
    assert not pids_of_ranks()


def test_engine_when_a_rank_is_killed_while_idle_then_it_is_known(folder: Path) -> None:
    running = Listening(spread(folder, "tensor", 2))
    os.kill(pids_of_ranks()[0], signal.SIGKILL)
    deadline_s = time.monotonic() + 5.0
    while running.engine.fault is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    running.engine.stop(0.0)


def test_ranks_when_the_engine_dies_then_they_end(folder: Path) -> None:
    program = (
        "import os, signal, torch; from pathlib import Path; from support.stepping import CPU\n"
        "from support.ranks import pids_of_ranks; from test_placement import spread\n"
        f"model = spread(Path({str(folder)!r}), 'tensor', 2)\n"
        "print(*pids_of_ranks(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests / "unit")])}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, check=False)
    [pid] = map(int, ended.stdout.split())
    deadline_s = time.monotonic() + 5.0
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_experts_when_they_are_to_stay_packed_then_so_they_do_on_the_ranks_too(folder: Path) -> None:
    expected, _ = generate(load_torch_model(folder), PROMPTS[:2], 12, OPTIONS)
    model = spread(folder, "pipeline", 2, packed=True)
    assert isinstance(model._stage.model._weights.layers[0].experts.gate_up, PackedMatrices)
    assert generate(model, PROMPTS[:2], 12, OPTIONS)[0] == expected


def test_pipeline_when_steps_have_been_taken_then_what_was_handed_on_is_let_go(folder: Path) -> None:
    model = spread(folder, "pipeline", 2)
    generate(model, PROMPTS[:1], 30, OPTIONS)
    assert model._stage._links is not None
    assert len(model._stage._links._underway) <= 2


def test_start_when_a_rank_cannot_read_its_part_then_its_sentence_is_told_and_nothing_is_left(
    folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    shards = divide(ModelConfig.from_folder(broken), "pipeline", 2)
    wrong = replace(shards[1], layers=range(3, 9))  # layers that are not there
    with pytest.raises(EngineError, match=r"^rank 1: KeyError: .model.layers.5"):
        DistributedModel(broken, [shards[0], wrong], Cluster((CPU,) * 2, 2, timeout_s=60.0), torch.float32)
    assert not pids_of_ranks()


def test_start_when_another_host_has_another_checkpoint_of_the_same_sizes_then_it_ends_and_says_so(
    folder: Path, tmp_path: Path
) -> None:
    write_random_checkpoint(tmp_path / "other", SHAPE, seed=6, name="test")
    shards, port = divide(ModelConfig.from_folder(folder), "pipeline", 2), free_port()
    job = Job(1, str(tmp_path / "other"), "127.0.0.1", port, "secret", "cpu", 1, 30.0)
    cluster = Cluster((CPU,), 2, port=port, secret="secret", timeout_s=30.0, meeting_timeout_s=60.0)
    with spawn(job) as joined:
        with pytest.raises(EngineError, match=rf"rank 1 has other weights .* than rank 0 has in {folder}: give all"):
            DistributedModel(folder, shards, cluster, torch.float32)
        joined.wait(30)


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_start_when_the_ranks_cannot_finish_a_step_together_then_it_ends_in_time_and_says_who_cannot(
    mode: SpreadMode, folder: Path
) -> None:
    model = spread(folder, mode, 2, timeout_s=5.0)
    plan = model.plan_cache(CacheLimits(block_size=16, num_rows=2, max_step_tokens=64, kv_cache_bytes=2**22))
    model.allocate_cache(plan)
    os.kill(pids_of_ranks()[0], signal.SIGSTOP)
    with pytest.raises(EngineError, match=r"^ranks 0 to 1 \(cpu, cpu\) cannot compute together: .+"):
        model.rehearse(KVCache(plan, model.config.sliding_window))
    assert not pids_of_ranks()


def test_start_when_the_first_rank_alone_cannot_go_on_then_its_own_sentence_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = spread(folder, "tensor", 2)
    plan = model.plan_cache(CacheLimits(block_size=16, num_rows=2, max_step_tokens=64, kv_cache_bytes=2**22))

    def fail(plan: CachePlan) -> None:
        raise EngineError("the GPU has no memory left for CUDA graphs")

    monkeypatch.setattr(model._stage, "allocate_cache", fail)
    with pytest.raises(EngineError, match=r"^the GPU has no memory left for CUDA graphs$"):
        model.allocate_cache(plan)
    assert not pids_of_ranks()


@pytest.mark.parametrize(("fault", "num_let_go"), [(None, 1), ("rank 1 died", 0)])
def test_close_when_nothing_is_at_fault_then_what_was_recorded_is_let_go_first(
    fault: str | None, num_let_go: int, folder: Path
) -> None:
    model, let_go = spread(folder, "tensor", 2), []
    model._let_go = lambda: let_go.append(torch.distributed.is_initialized())
    if fault:
        model._ranks.give_up(fault)
    model.close()
    assert let_go == [True] * num_let_go


def test_cancel_when_a_step_is_under_way_then_the_others_are_answered_as_ever(folder: Path) -> None:
    expected, _ = generate(load_torch_model(folder), [PROMPTS[3]], NUM_TOKENS, OPTIONS)
    running = Listening(spread(folder, "pipeline", 2))
    for number in range(12):
        running.submit(f"gone {number}", PROMPTS[number % 7], max_tokens=400)
    running.submit("stays", PROMPTS[3], max_tokens=NUM_TOKENS)
    running.until(lambda delta: bool(delta.token_ids))
    for number in range(12):
        running.engine.cancel(f"gone {number}")
    tokens: list[int] = []

    def ends(delta: TokenDelta) -> bool:
        if delta.request_id == "stays":
            assert delta.error is None
            tokens.extend(delta.token_ids)
        return delta.request_id == "stays" and delta.is_last

    running.until(ends)
    assert tokens == expected[0]
    running.engine.stop(5.0)
    stats = running.engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.num_cache_blocks_used) == (0, 0, 0)


@pytest.mark.parametrize("num_devices", [2, 3, 4, 8])
def test_divide_when_a_published_model_is_divided_then_every_part_is_there_once(num_devices: int) -> None:
    config = published_config("120b")
    stages = divide(config, "pipeline", num_devices)
    assert [layer for shard in stages for layer in shard.layers] == list(range(36))
    if num_devices == 3:
        with pytest.raises(EngineError, match="8 key-value heads cannot be divided over 3 devices"):
            divide(config, "tensor", num_devices)
        return
    parts = divide(config, "tensor", num_devices)
    for layer in (0, 1, 35):
        inner = sorted(channel for shard in parts for channel in shard.inner(layer))
        assert inner == list(range(2880))
        assert all(shard.inner(layer).start % 32 == 0 for shard in parts)
    assert [token for shard in parts for token in shard.vocab] == list(range(config.vocab_size))
    sizes = [sum(len(shard.inner(layer)) for layer in shard.layers) for shard in parts]
    assert max(sizes) - min(sizes) <= 32 * num_devices, "what does not divide evenly takes turns"
