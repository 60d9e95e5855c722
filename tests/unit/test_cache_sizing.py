"""How much memory there is, and how large the KV cache becomes for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptoss_backend.engine import cache_sizing
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.cache_sizing import describe, size_cache
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.memory import available_bytes, cgroup_available
from support.shapes import tiny_config

CPU = torch.device("cpu")
MIB = 2**20


def write_group(folder: Path, limit: str, used: int, inactive: int, *, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    prefix = "" if version == 2 else "total_"
    (folder / "memory.stat").write_text(f"anon 1\n{prefix}inactive_file {inactive}\n")


def own_groups(folder: Path, *lines: str) -> Path:
    path = folder / "own"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_cgroup_when_it_has_a_limit_then_what_is_left_counts_pages_of_files_as_free(tmp_path: Path) -> None:
    write_group(tmp_path, str(1000 * MIB), 700 * MIB, 500 * MIB)
    assert cgroup_available(tmp_path, own_groups(tmp_path, "0::/")) == 800 * MIB
    assert cgroup_available(tmp_path, own_groups(tmp_path, "0::/not/seen/from/here")) == 800 * MIB
    assert cgroup_available(tmp_path, tmp_path / "no such file") == 800 * MIB


def test_cgroup_when_an_outer_one_is_tighter_then_that_counts(tmp_path: Path) -> None:
    write_group(tmp_path / "slice", str(300 * MIB), 100 * MIB, 0)
    write_group(tmp_path / "slice" / "unit", str(900 * MIB), 50 * MIB, 0)
    assert cgroup_available(tmp_path, own_groups(tmp_path, "0::/slice/unit")) == 200 * MIB
    write_group(tmp_path / "slice", "max", 100 * MIB, 0)
    assert cgroup_available(tmp_path, own_groups(tmp_path, "0::/slice/unit")) == 850 * MIB


def test_cgroup_when_it_is_version_1_then_its_files_are_read(tmp_path: Path) -> None:
    write_group(tmp_path / "memory" / "docker", str(400 * MIB), 300 * MIB, 100 * MIB, version=1)
    assert cgroup_available(tmp_path, own_groups(tmp_path, "7:cpu,memory:/docker", "3:pids:/docker")) == 200 * MIB


def test_cgroup_when_there_is_none_then_nothing_is_limited(tmp_path: Path) -> None:
    assert cgroup_available(tmp_path, own_groups(tmp_path, "0::/")) == 2**62
    assert 0 < available_bytes(CPU) < 2**62


def size(kv_cache_bytes: int | None, *, num_rows: int = 2, max_model_len: int | None = None) -> CachePlan:
    limits = CacheLimits(
        block_size=16,
        num_rows=num_rows,
        max_step_tokens=64,
        max_model_len=max_model_len,
        kv_cache_bytes=kv_cache_bytes,
    )
    return size_cache(tiny_config(sliding_window=32), CPU, 4, limits)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that seem to be free."""
    monkeypatch.setattr(cache_sizing, "available_bytes", lambda device: 64 * MIB)
    return 64 * MIB


def test_size_when_nothing_is_said_then_a_quarter_of_what_is_free_is_taken(free: int) -> None:
    plan = size(None)
    assert 0.99 * free / 4 < plan.num_bytes <= free / 4
    tokens = f"{plan.num_tokens:,}"
    line = f"KV cache: 16 MiB, {tokens} tokens; the context is cut from 131,072 to {tokens} tokens"
    assert describe(plan, 131_072) == line


@pytest.mark.parametrize(("free_gib", "share_gib"), [(30.0, 27.0), (8.0, 7.0), (2.5, 1.5), (0.9, 0.0)])
def test_share_when_a_card_is_small_then_a_step_keeps_room_to_work_in(free_gib: float, share_gib: float) -> None:
    share = cache_sizing._share(int(free_gib * 2**30), torch.device("cuda"), tiny_config(), CacheLimits(16, 2, 64))
    assert share / 2**30 == pytest.approx(share_gib, abs=0.01)


def test_share_when_many_rows_may_be_drawn_for_then_their_logits_have_room() -> None:
    config = tiny_config(vocab_size=201_088)
    free, device = 8 * 2**30, torch.device("cuda")
    few, many = (cache_sizing._share(free, device, config, CacheLimits(16, rows, 64)) for rows in (1, 256))
    # of each row 16 and 32 bits, and three times 32 of those that are drawn for at once
    assert few - many == (6 * 255 + 12 * 31) * 201_088


def test_size_when_bytes_are_given_then_they_are_the_limit(free: int) -> None:
    plan = size(4 * MIB)
    assert 0.98 * 4 * MIB < plan.num_bytes <= 4 * MIB
    assert size(60 * MIB, max_model_len=256).num_bytes < MIB, "no more than the rows can use"


def test_size_when_more_is_wanted_than_is_free_then_it_is_refused_in_one_sentence(free: int) -> None:
    with pytest.raises(EngineError, match=r"^the KV cache would take 0\.1 GiB, but only 0\.1 GiB are free: lower"):
        size(100 * MIB)
    with pytest.raises(EngineError, match=r"^the KV cache may take 16 MiB, but needs \d+ MiB for 2 sequences: lower"):
        size(None, max_model_len=131072)
