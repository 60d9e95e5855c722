"""What the GPU bench holds a step against."""

from __future__ import annotations

import pytest
from load.bench.gpu_steps import Traffic

from support.shapes import published_config


@pytest.mark.parametrize(("size", "gigabytes"), [("20b", 3.7), ("120b", 5.0)])
def test_traffic_when_one_row_decodes_then_it_is_what_the_literature_counts(size: str, gigabytes: float) -> None:
    assert Traffic.of(published_config(size), 1, 1, 2).weights / 1e9 == pytest.approx(gigabytes, rel=0.05)


def test_traffic_when_weights_have_eight_bits_then_attention_and_unembedding_are_half_and_their_scales() -> None:
    config = published_config("20b")
    plain, eight_bit = (Traffic.of(config, 1, 1, 2, eight_bit=eight_bit) for eight_bit in (False, True))
    rows = 24 * (5120 + 2880) + 201_088
    values = 24 * (5120 * 2880 + 2880 * 4096) + 201_088 * 2880
    assert plain.weights - eight_bit.weights == pytest.approx(values - 4 * rows)
    assert plain.cache == eight_bit.cache


def test_traffic_when_many_rows_decode_then_no_expert_is_counted_twice() -> None:
    config = published_config("20b")
    one, many, more = (Traffic.of(config, batch, 1024, 2) for batch in (1, 256, 10_000))
    assert one.weights < many.weights
    assert more.weights == pytest.approx(many.weights, rel=1e-6)
    assert many.cache == 256 * one.cache


def test_traffic_when_contexts_grow_then_sliding_layers_read_their_window_only() -> None:
    config = published_config("20b")
    near, far = (Traffic.of(config, 1, context, 2).cache for context in (1024, 2048))
    assert far - near == 1024 * 2 * 8 * 64 * 2 * len(config.full_layers)


def test_traffic_when_the_cache_is_float8_then_it_halves_and_the_weights_stay() -> None:
    config = published_config("20b")
    full, rough = (Traffic.of(config, 8, 1024, 2, kv_element_size=size) for size in (None, 1))
    assert full.cache == 2 * rough.cache
    assert full.weights == rough.weights
