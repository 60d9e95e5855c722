"""How ranks come together, what they say of themselves, and the steps before the first request; without a model."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.placement import ranks as ranks_module
from gptoss_backend.engine.placement import worker
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.control import Line, LineError, call
from gptoss_backend.engine.placement.group import open_store
from gptoss_backend.engine.placement.jobs import Job
from gptoss_backend.engine.placement.ranks import Ranks
from gptoss_backend.engine.placement.rehearsal import rehearse
from gptoss_backend.engine.placement.worker import CONTROL_KEY, Assignment
from gptoss_client.triton_command import start_progress
from support.fake_model import FakeModel
from support.ports import free_port
from support.stepping import CPU

CUDA = tuple(torch.device("cuda", index) for index in range(4))
ASSIGNMENT = Assignment(0, 1, 0, 1, 3, dtype="float32", cache_dtype="float32", packed=False)


def test_rehearsal_when_it_is_over_then_the_cache_is_as_it_was() -> None:
    model, plan = FakeModel(), CachePlan(16, 4, 256, 20, 40, num_bytes=0)
    cache = KVCache(plan, model.config.sliding_window)
    rehearse(model, cache)
    prefill, decode = model.batches
    assert (len(prefill.token_ids), prefill.num_decodes, len(prefill.chunks)) == (8, 0, 1)
    assert (decode.positions, decode.num_decodes, decode.chunks) == ([8], 1, [])
    assert cache.num_free_rows == plan.num_rows
    assert (cache.full.pool.num_free, cache.sliding.pool.num_free) == (19, 39)
    assert not cache.full.table.any()
    assert not cache.sliding.table.any()
    _, num_cached = cache.open(prefill.token_ids * 4)
    assert num_cached == 0


def test_advice_when_cards_or_hosts_cannot_reach_each_other_then_it_names_them_and_what_to_try() -> None:
    assert str(Cluster(CUDA, 8)) == "ranks 0 to 7 (cuda:0, cuda:1, cuda:2, cuda:3; 4 on other hosts)"
    advice = Cluster(CUDA, 8).advice()
    assert all(words in advice for words in ("NCCL_P2P_DISABLE=1", "NCCL_DEBUG=WARN", "ports between the nodes"))
    assert "ports" not in Cluster(CUDA, 4).advice()
    assert "engine.cuda_graphs" not in advice
    assert "set engine.cuda_graphs to false" in Cluster(CUDA, 4).advice(replays=True)
    assert Cluster((CPU, CPU), 2).advice() == ""


class Meeting:
    """Three ranks of which two are on other hosts, and the engine that waits for them."""

    def __init__(self, meeting_timeout_s: float = 30.0) -> None:
        port = free_port()
        self.cluster = Cluster((CPU,), 3, port=port, secret="s", timeout_s=5.0, meeting_timeout_s=meeting_timeout_s)
        self.ranks = Ranks(self.cluster, [ASSIGNMENT] * 3)
        self.error: EngineError | None = None
        self._thread = threading.Thread(target=self._gather)
        self._thread.start()
        self.lines: list[Line] = []

    def come(self, rank: int) -> Line:
        """Call as a rank does, and be told what is its own."""
        host, port = self.cluster.host, self.cluster.port
        self._store = open_store(host, port, is_master=False, timeout_s=5.0)
        line = call(host, int(self._store.get(CONTROL_KEY)), b"s")
        line.tell({"rank": rank, "pid": 1})
        assert line.hear(5.0) == asdict(ASSIGNMENT)
        self.lines.append(line)
        return line

    def wait(self) -> None:
        """Return when the engine waits no more."""
        self._thread.join(10.0)
        assert not self._thread.is_alive()

    def _gather(self) -> None:
        try:
            self._kept = self.ranks.gather(Path("nowhere"))
        except EngineError as error:
            self.error = error

    def close(self) -> None:
        self.wait()
        self.ranks.close()
        for line in self.lines:
            line.close()


@pytest.fixture
def meeting() -> Iterator[Callable[..., Meeting]]:
    made: list[Meeting] = []

    def make(meeting_timeout_s: float = 30.0) -> Meeting:
        made.append(Meeting(meeting_timeout_s))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_meeting_when_a_rank_stays_away_then_it_is_named_now_and_then_and_in_the_end(
    meeting: Callable[..., Meeting], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ranks_module, "_TELL_PERIOD_S", 0.2)
    waiting = meeting(2.0)
    waiting.come(2)
    waiting.wait()
    where = f"ranks 1 at 127.0.0.1:{waiting.cluster.port}"
    assert str(waiting.error).startswith(f"waited 2 s (placement.meeting_timeout_s) in vain for {where}")
    assert caplog.text.count(f"s for {where}") > 2


def test_start_when_the_engine_waits_for_ranks_then_its_log_tells_that_it_gets_on(
    meeting: Callable[..., Meeting], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ranks_module, "_TELL_PERIOD_S", 0.3)
    log = tmp_path / "triton.log"
    log.write_text("", encoding="utf-8")
    before = start_progress(log)
    meeting(2.0).wait()
    told = caplog.text.splitlines(keepends=True)
    log.write_text("".join(told[: len(told) // 2]), encoding="utf-8")
    half_way = start_progress(log)
    log.write_text("".join(told), encoding="utf-8")
    assert before != half_way != start_progress(log)


def test_meeting_when_a_host_goes_and_joins_again_then_its_new_rank_is_the_one(meeting: Callable[..., Meeting]) -> None:
    waiting = meeting()
    former = waiting.come(1)
    former.close()
    latter = waiting.come(1)
    rival = waiting.come(1)  # the one before has not noticed yet that it is to end
    with pytest.raises(LineError):
        latter.receive(5.0)
    waiting.come(2)
    waiting.wait()
    assert waiting.error is None
    rival.tell({"loaded": True})
    waiting.lines[-1].tell({"loaded": True})
    assert waiting.ranks.hear_all() == [{"loaded": True}] * 2
    assert waiting.ranks.fault is None


def test_meeting_when_a_rank_says_what_ails_it_then_nobody_waits_for_the_others(
    meeting: Callable[..., Meeting],
) -> None:
    waiting = meeting()
    waiting.come(1).tell({"error": "there is no checkpoint"})
    waiting.wait()
    assert str(waiting.error) == "rank 1: there is no checkpoint"


def test_ranks_when_one_fails_because_another_has_died_then_the_death_is_the_reason(
    meeting: Callable[..., Meeting],
) -> None:
    waiting = meeting()
    first, second = waiting.come(1), waiting.come(2)
    waiting.wait()
    first.tell({"error": "DistBackendError: remote process exited"})
    second.close()
    assert waiting.ranks.hear_last(5.0) is None
    assert waiting.ranks.fault == "rank 2 of 3 died"
    with pytest.raises(EngineError, match=r"^rank 2 of 3 died$"):
        waiting.ranks.hear_all()


class FakeLine:
    """What a rank says."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def tell(self, document: dict[str, Any]) -> None:
        self.told.append(document)

    def hear(self) -> dict[str, Any]:
        return asdict(ASSIGNMENT)


def test_worker_when_its_device_fails_then_it_says_so_before_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    line = FakeLine()

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")

    job = Job(2, "folder", "127.0.0.1", 1, "secret", "cuda:2", 1, 5.0)
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(asdict(job)) + "\n"))
    monkeypatch.setattr(worker, "open_store", lambda *_, **__: {CONTROL_KEY: "1"})
    monkeypatch.setattr(worker, "call", lambda *_: line)
    monkeypatch.setattr(worker, "_listen", lambda _: None)
    monkeypatch.setattr(worker, "_serve", fail)
    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    with pytest.raises(torch.OutOfMemoryError):
        worker.main()
    assert line.told[-1] == {"error": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."}
