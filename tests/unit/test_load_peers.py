"""Comparing servers: the prompts, the client, the medians and the tables."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing, suppress

import pytest
from load.bench.contestants import as_text
from load.bench.figures import ENGINE, OURS, Reply, RoundFigures, best_peer, ratio_table, server_table, summarize
from load.bench.host_work import measure_host_work
from load.bench.stream import PeerError, ask, ask_all, post
from load.bench.tokenizer import single_token_words
from load.bench.workload import LEAST_REQUESTS, Workload, make_prompts

from gptoss_backend.demo.random_checkpoint import SHAPES
from gptoss_backend.engine.config import FULL_ATTENTION, ModelConfig
from support.shapes import tiny_config


def _round(server: str, tokens_per_s: float, ttft_s: float = 0.01, concurrency: int = 8) -> RoundFigures:
    return RoundFigures(server, concurrency, tokens_per_s, ttft_s, inter_token_s=0.002)


# --- the workload ---------------------------------------------------------------------------------------------------


def test_make_prompts_when_seeded_alike_then_equal_and_else_without_a_common_beginning() -> None:
    words = range(1000, 30_000)
    prompts = make_prompts(words, 32, 200, seed="a")
    assert prompts == make_prompts(words, 32, 200, seed="a")
    others = make_prompts(words, 32, 200, seed="b")
    beginnings = {tuple(prompt[:4]) for prompt in prompts + others}
    assert len(beginnings) == 64
    assert {len(prompt) for prompt in prompts} == {200}


@pytest.mark.parametrize(("concurrency", "num_requests"), [(1, LEAST_REQUESTS), (8, 8), (32, 32)])
def test_workload_when_few_streams_then_enough_requests_to_time(concurrency: int, num_requests: int) -> None:
    assert Workload(concurrency).num_requests == num_requests


def test_single_token_words_when_joined_then_encoded_as_the_same_ids() -> None:
    from gptoss_backend.harmony.vocabulary import encoding

    words = single_token_words()
    assert len(words) > 10_000
    prompt = make_prompts(words, 1, 500, seed="round trip")[0]
    assert encoding().encode(as_text(prompt)) == prompt


# --- the client -----------------------------------------------------------------------------------------------------


async def _serve(pieces: Sequence[bytes], *, pause_s: float = 0.0) -> tuple[asyncio.Server, int, list[bytes]]:
    """Answer every request with `pieces`, then close. Returns the server, its port and the bodies it was sent."""
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.CancelledError), closing(writer):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(await reader.readexactly(length))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return server, port, bodies


def _event(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
_ROLE = _event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
_TOKEN = _event({"choices": [{"delta": {"content": 'a "quoted" word'}}]})
_USAGE = _event({"choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 264}})
_DONE = b"data: [DONE]\n\n"


def test_ask_when_streamed_then_the_first_token_is_the_first_text_and_counts_are_the_servers() -> None:
    async def run() -> tuple[Reply, list[bytes]]:
        server, port, bodies = await _serve([_OK, _ROLE, _TOKEN, _TOKEN, _TOKEN, _USAGE + _DONE], pause_s=0.02)
        async with server:
            return await ask(port, post(port, "/v1/completions", {"prompt": [1, 2]})), bodies

    reply, bodies = asyncio.run(run())
    assert 0.04 <= reply.first_token_s < reply.last_token_s
    assert reply.inter_token_s == pytest.approx((reply.last_token_s - reply.first_token_s) / 2)
    assert reply.num_tokens == 3
    assert json.loads(bodies[0]) == {"prompt": [1, 2]}


def test_ask_when_the_stream_ends_without_done_then_its_end_is_the_answers_end() -> None:
    async def run() -> Reply:
        server, port, _ = await _serve([_OK + _TOKEN, _TOKEN + _USAGE])
        async with server:
            return await ask(port, post(port, "/", {}))

    assert asyncio.run(run()).num_tokens == 3


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"HTTP/1.1 404 Not Found\r\n\r\nno such path"], id="refused"),
        pytest.param([_OK, _ROLE, _USAGE, _DONE], id="no token"),
        pytest.param([_OK, _TOKEN], id="cut off"),
        pytest.param([], id="closed"),
    ],
)
def test_ask_when_there_is_no_whole_answer_then_it_fails(pieces: list[bytes]) -> None:
    async def run() -> Reply:
        server, port, _ = await _serve(pieces)
        async with server:
            return await ask(port, post(port, "/", {}))

    with pytest.raises(PeerError, match="no whole answer"):
        asyncio.run(run())


def test_ask_all_when_more_requests_than_streams_then_all_are_answered_one_after_another() -> None:
    async def run() -> tuple[list[Reply], float, int]:
        server, port, bodies = await _serve([_OK, _TOKEN + _USAGE + _DONE], pause_s=0.01)
        async with server:
            replies, wall_s = await ask_all(port, [post(port, "/", {})] * 6, 2, limit_s=10)
            return replies, wall_s, len(bodies)

    replies, wall_s, num_asked = asyncio.run(run())
    assert len(replies) == num_asked == 6
    assert wall_s >= 3 * 0.01


def test_ask_all_when_too_slow_then_it_fails_in_time() -> None:
    async def run() -> None:
        server, port, _ = await _serve([_OK] * 50, pause_s=0.1)
        async with server:
            await ask_all(port, [post(port, "/", {})], 1, limit_s=0.2)

    with pytest.raises(PeerError, match="not over after"):
        asyncio.run(run())


def test_ask_when_nobody_listens_then_it_says_so() -> None:
    async def unused() -> int:
        server, port, _ = await _serve([])
        server.close()
        await server.wait_closed()
        return port

    port = asyncio.run(unused())
    with pytest.raises(PeerError, match="nothing listens"):
        asyncio.run(ask(port, post(port, "/", {})))


# --- the figures ----------------------------------------------------------------------------------------------------


def test_round_figures_when_replies_overlap_then_tokens_over_the_rounds_time() -> None:
    replies = [Reply(0.1, 1.1, 11), Reply(0.3, 0.7, 5), Reply(0.2, 0.9, 8)]
    figures = RoundFigures.of("vllm", 3, replies, wall_s=2.0)
    assert figures.tokens_per_s == pytest.approx(12.0)
    assert figures.ttft_s == pytest.approx(0.2)
    assert figures.inter_token_s == pytest.approx(0.1)


def test_summarize_when_one_round_was_disturbed_then_the_median_passes_it_over() -> None:
    rounds = [_round("vllm", rate) for rate in (100.0, 10.0, 110.0)] + [_round("vllm", 5.0, concurrency=1)]
    many, one = summarize(rounds)
    assert (many.tokens_per_s, many.least_tokens_per_s, many.most_tokens_per_s) == (100.0, 10.0, 110.0)
    assert (many.num_rounds, one.num_rounds, one.concurrency) == (3, 1, 1)


def test_best_peer_when_ours_and_the_engine_are_quicker_then_still_another_server() -> None:
    summaries = summarize([_round(OURS, 300), _round(ENGINE, 400), _round("vllm", 200), _round("llama.cpp", 100)])
    peer = best_peer(summaries, 8)
    assert peer is not None
    assert peer.server == "vllm"
    assert best_peer(summaries[:2], 8) is None


def test_ratio_table_when_peers_ran_then_ours_is_held_against_the_best_and_the_quickest() -> None:
    rounds = [_round(OURS, 300, 0.02), _round(ENGINE, 400), _round("vllm", 200, 0.04), _round("llama.cpp", 100, 0.01)]
    row = ratio_table(summarize(rounds)).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["8", "vllm", "1.50", "0.50", "2.00", "0.75"]


def test_tables_when_ours_did_not_run_then_no_ratios_but_the_figures() -> None:
    summaries = summarize([_round("vllm", 1234.5)])
    assert ratio_table(summaries) == ""
    assert "1,234 to 1,234" in server_table(summaries)
    assert len({len(line) for line in server_table(summaries).splitlines()}) == 1


# --- shapes and host work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "millions"), [("tiny", 26), ("small", 413), ("20b", 20_900), ("120b", 116_800)])
def test_shapes_when_counted_then_the_sizes_they_are_named_for(name: str, millions: int) -> None:
    shape = SHAPES[name]
    attention = 2 * shape.hidden_size * shape.head_dim * (shape.num_heads + shape.num_kv_heads)
    experts = shape.num_experts * shape.hidden_size * shape.intermediate_size * 3
    total = shape.num_layers * (attention + experts) + 2 * shape.vocab_size * shape.hidden_size
    assert total == pytest.approx(millions * 1e6, rel=0.02)


def test_host_work_when_measured_then_above_nothing_and_only_whole_decode_steps_count() -> None:
    config: ModelConfig = tiny_config(sliding_window=32)
    assert FULL_ATTENTION in config.layer_types
    work = measure_host_work(config, num_sequences=4, context=64, num_steps=20)
    assert work.cpu_ms > 0
    assert 0 < work.wall_ms < 1000
