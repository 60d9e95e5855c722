"""Which tokens may come, as bits, against sets of tokens."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.engine.token_bits import Bits, all_bits, bits_of, exclude, fitted, has_any, without

VOCABS = st.integers(1, 200)


def tokens_in(bits: Bits) -> set[int]:
    return set(np.unpackbits(bits.view(np.uint8), bitorder="little").nonzero()[0].tolist())


def array(tokens: set[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(sorted(tokens), dtype=np.int64)


@given(st.sets(st.integers(0, 199)), st.sets(st.integers(0, 199)), VOCABS)
def test_bits_when_tokens_are_taken_out_then_the_others_stay(tokens: set[int], barred: set[int], vocab: int) -> None:
    tokens, barred = ({token for token in some if token < vocab} for some in (tokens, barred))
    bits = bits_of(array(tokens), vocab)
    assert len(bits) == -(-vocab // 32)
    assert tokens_in(bits) == tokens
    assert has_any(bits) == bool(tokens)
    assert tokens_in(without(bits, array(barred))) == tokens - barred
    assert tokens_in(bits) == tokens
    assert tokens_in(all_bits(vocab)) == set(range(vocab))


@given(VOCABS, VOCABS)
def test_bits_when_the_vocabulary_is_another_then_what_is_not_known_may_not_come(known: int, vocab: int) -> None:
    bits = np.full(-(-known // 32), -1, dtype=np.int32)  # bits behind the last token, too
    found = fitted(bits, known, vocab)
    assert len(found) == -(-vocab // 32)
    assert tokens_in(found) == set(range(min(known, vocab)))


@given(st.lists(st.sets(st.integers(0, 69)), min_size=1, max_size=4))
def test_exclude_when_rows_have_bits_of_their_own_then_only_their_tokens_stay_finite(rows: list[set[int]]) -> None:
    logits = torch.randn(len(rows), 70, generator=torch.Generator().manual_seed(1))
    before = logits.clone()
    exclude([bits_of(array(tokens), 70) for tokens in rows], logits)
    for row, whole, tokens in zip(logits, before, rows, strict=True):
        assert set(row.isfinite().nonzero().flatten().tolist()) == tokens
        assert all(row[token] == whole[token] for token in tokens)
