"""Block accounting and prefix reuse of the KV cache."""

from __future__ import annotations

from array import array

import pytest

from gptoss_backend.engine.block_hashes import BlockHashes
from gptoss_backend.engine.block_pool import NULL_BLOCK, BlockPool
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan, plan_cache
from gptoss_backend.engine.errors import CacheFull, EngineError
from gptoss_backend.engine.kv_cache import KVCache
from support.shapes import tiny_config

BLOCK = 4
WINDOW = 8


def make_cache(num_full: int = 33, num_sliding: int = 65, rows: int = 4, max_len: int = 64) -> KVCache:
    plan = CachePlan(BLOCK, rows, max_len, num_full, num_sliding, num_bytes=0)
    return KVCache(plan, WINDOW)


def run(cache: KVCache, tokens: list[int]) -> tuple[int, int]:
    """Open, compute and commit a sequence in one go; returns (row, cached tokens)."""
    row, cached = cache.open(tokens)
    cache.reserve(row, len(tokens))
    cache.commit(row, tokens, len(tokens))
    return row, cached


def test_pool_when_more_is_taken_than_free_then_raises_and_changes_nothing() -> None:
    pool = BlockPool(4)
    with pytest.raises(CacheFull):
        pool.take(4)
    assert sorted(pool.take(3)) == [1, 2, 3]


def test_pool_when_blocks_are_taken_then_unlabelled_ones_go_first_and_labelled_by_age() -> None:
    pool = BlockPool(4)
    old, new, plain = pool.take(3)
    pool.label(old, b"old")
    pool.label(new, b"new")
    for block in (old, new, plain):
        pool.release(block)
    assert pool.take(1) == [plain]
    assert pool.take(1) == [old]
    assert pool.find(b"old") is None
    assert pool.find(b"new") == new


def test_pool_when_a_shared_block_is_released_once_then_it_stays_held() -> None:
    pool = BlockPool(3)
    [block] = pool.take(1)
    pool.share(block)
    pool.release(block)
    assert pool.num_used == 1
    pool.release(block)
    assert pool.num_used == 0


def test_open_when_a_prompt_was_seen_then_whole_blocks_but_the_last_token_are_reused() -> None:
    cache = make_cache()
    tokens = list(range(16))
    row, cached = run(cache, tokens)
    assert cached == 0
    cache.close(row)
    assert run(cache, tokens)[1] == 12  # the last block is computed again: its last token's logits are needed
    assert run(cache, [*tokens, 99])[1] == 16


def test_open_when_prompts_share_a_beginning_then_only_that_is_reused() -> None:
    cache = make_cache()
    run(cache, list(range(16)))
    assert run(cache, [0, 1, 2, 3, 4, 5, 6, 7, 99, 99, 99, 99, 99])[1] == 8
    assert run(cache, [99, *range(1, 16)])[1] == 0


def test_open_when_the_window_before_a_prefix_is_gone_then_it_is_not_reused() -> None:
    cache = make_cache(num_sliding=9)
    tokens = list(range(32))
    row, _ = cache.open(tokens)
    for end in range(BLOCK, 33, BLOCK):  # block by block, as a chunked prefill does
        cache.reserve(row, end)
        cache.commit(row, tokens, end)
    cache.close(row)
    [*cache.sliding.pool.take(6)]  # overwrites the oldest windows
    assert cache.open([*tokens, 1])[1] == 32  # the last window is still there
    assert cache.open([*tokens[:16], 1])[1] == 0  # that in the middle is not


def test_open_when_a_middle_window_is_gone_then_the_longest_prefix_before_it_is_reused() -> None:
    cache = make_cache()
    tokens = list(range(40))
    row, _ = cache.open(tokens)
    for end in range(BLOCK, 41, BLOCK):
        cache.reserve(row, end)
        cache.commit(row, tokens, end)
    hashes = BlockHashes()
    hashes.extend_over(tokens, BLOCK)
    cache.close(row)
    lost = cache.sliding.pool.find(hashes[6])
    while cache.sliding.pool.find(hashes[6]) is not None:
        cache.sliding.pool.take(1)
    assert lost is not None
    # a prefix of 7 or 8 blocks would read block 6 in its window of two; one of 9 and more would not
    for num_blocks, reused in ((9, 9), (8, 6), (7, 6), (6, 6)):
        row, cached = cache.open([*tokens[: num_blocks * BLOCK], 999])
        gone = [cache.sliding.pool.find(content) is None for content in hashes[:num_blocks]]
        expected = max(
            (n for n in range(num_blocks + 1) if not any(gone[max(0, n * BLOCK - WINDOW + 1) // BLOCK : n])), default=0
        )
        assert cached == expected * BLOCK, (num_blocks, reused)
        cache.close(row)


def test_hashes_when_extended_step_by_step_then_they_are_those_of_the_whole() -> None:
    tokens = list(range(100))
    whole, grown, begun = BlockHashes(), BlockHashes(), BlockHashes()
    whole.extend_over(tokens, BLOCK)
    for end in range(101):
        grown.extend_over(array("i", tokens[:end]), BLOCK)
    assert grown == whole
    assert len(set(whole)) == 25
    begun.extend_over(tokens, BLOCK, 3)
    assert begun == whole[:3]


def test_open_when_salts_differ_then_nothing_is_found_and_with_the_same_one_all_is() -> None:
    cache = make_cache()
    tokens = list(range(8))  # a beginning shorter than a block gets its salt, too, once it has grown
    mine = BlockHashes("mine")
    mine.extend_over(tokens[:2], BLOCK)
    row, _ = cache.open(tokens[:2], block_hashes=mine)
    cache.reserve(row, 8)
    cache.commit(row, tokens, 8)
    cache.close(row)
    found = [cache.open([*tokens, 9], block_hashes=BlockHashes(salt))[1] for salt in (None, "theirs", "mine")]
    assert found == [0, 0, 8]


def test_hashes_when_a_salt_spells_a_block_then_what_follows_is_not_what_follows_that_block() -> None:
    beginning, rest = [65, 66, 67, 68], [1, 2, 3, 4]
    plain, salted = BlockHashes(), BlockHashes(salt=array("i", beginning).tobytes().decode())
    plain.extend_over([*beginning, *rest], 4)
    salted.extend_over(rest, 4)
    assert salted[0] not in plain


def test_commit_when_positions_leave_the_window_then_their_sliding_blocks_are_given_back() -> None:
    cache = make_cache()
    tokens = list(range(40))
    row, _ = cache.open(tokens)
    for end in range(1, 41):
        cache.reserve(row, end)
        cache.commit(row, tokens, end)
        assert cache.sliding.pool.num_used <= WINDOW // BLOCK + 1
    assert cache.full.pool.num_used == 10
    assert cache.sliding.table[row, 0] == NULL_BLOCK


def test_close_when_all_sequences_end_then_no_block_is_held() -> None:
    cache = make_cache()
    rows = [run(cache, list(range(start, start + 20)))[0] for start in (0, 0, 5)]
    for row in rows:
        cache.close(row)
    assert cache.full.pool.num_used == cache.sliding.pool.num_used == 0
    assert cache.num_free_rows == 4
    assert int(cache.full.table.abs().sum()) == int(cache.sliding.table.abs().sum()) == 0


def test_open_when_the_prompt_does_not_fit_then_raises_and_changes_nothing() -> None:
    cache = make_cache(num_full=5)
    run(cache, list(range(8)))
    free = cache.full.pool.num_free
    with pytest.raises(CacheFull):
        cache.open(list(range(8)) + [50] * 9)
    assert (cache.full.pool.num_free, cache.num_free_rows) == (free, 3)


def test_reserve_when_blocks_run_out_then_raises_and_changes_nothing() -> None:
    cache = make_cache(num_full=3)
    row, _ = run(cache, list(range(8)))
    with pytest.raises(CacheFull):
        cache.reserve(row, 9)
    cache.reserve(row, 8)


def test_plan_when_the_budget_is_small_then_the_context_is_cut_to_it() -> None:
    config = tiny_config(sliding_window=WINDOW)
    plan = plan_cache(config, CacheLimits(16, 2, 64), budget_bytes=2**20, element_size=4)
    assert plan.num_bytes <= 2**20
    assert plan.max_model_len <= plan.num_tokens < config.max_positions


def test_plan_when_the_wanted_context_does_not_fit_then_the_sentence_names_the_settings() -> None:
    with pytest.raises(EngineError, match=r"may take 1 MiB, but needs \d+ MiB.*engine\.max_num_seqs.*kv_cache_bytes"):
        plan_cache(
            tiny_config(sliding_window=WINDOW),
            CacheLimits(16, 2, 64, max_model_len=100_000),
            budget_bytes=2**20,
            element_size=4,
        )
