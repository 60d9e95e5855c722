"""Chats through the official client, the adapter and the real tritonserver."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from support.live_server import LiveServer, wait_until

MODEL = "gpt-oss-demo"
# what `openai.OpenAI` has no argument for
IGNORE_EOS = {"ignore_eos": True}


def ask(client: openai.OpenAI, text: str, num_tokens: int = 64) -> str:
    """Stream a greedy answer of exactly `num_tokens`; returns all its text."""
    stream = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": text}],
        temperature=0.0,
        max_tokens=num_tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=IGNORE_EOS,
    )
    said, reason, usage = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said += (choice.delta.content or "") + (getattr(choice.delta, "reasoning", None) or "")
            reason = choice.finish_reason or reason
    assert reason == "length"
    assert usage is not None
    assert usage.completion_tokens == num_tokens
    return said


def test_stream_when_a_chat_is_asked_then_chunks_come_one_by_one_in_order_under_one_id(client: openai.OpenAI) -> None:
    started = time.monotonic()
    arrivals, ids, kinds = [], set(), []
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "hello"}], stream=True, max_tokens=100, extra_body=IGNORE_EOS
    )
    for chunk in stream:
        arrivals.append(time.monotonic() - started)
        ids.add(chunk.id)
        [choice] = chunk.choices
        kinds.append("role" if choice.delta.role else "end" if choice.finish_reason else "delta")
        assert chunk.model == MODEL
    assert len(ids) == 1
    assert kinds[0] == "role"
    assert kinds[-1] == "end"
    assert set(kinds[1:-1]) == {"delta"}
    assert len(kinds) > 40
    # spread over the generation, not all at its end; what repeats itself is guessed at, and comes faster
    assert arrivals[1] < 0.8 * arrivals[-1]


def test_stream_when_read_raw_then_it_ends_with_a_finish_reason_the_usage_and_done(server: LiveServer) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "ignore_eos": True,
    }
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60.0)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    usage = json.loads(events[-2])
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 5
    assert json.loads(events[-3])["choices"][0]["finish_reason"] == "length"


def test_answer_when_not_streamed_then_message_reason_and_usage_agree_with_the_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "the same question"}],
        temperature=0.0,
        max_tokens=64,
        extra_body=IGNORE_EOS,
    )
    [choice] = whole.choices
    assert choice.finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.completion_tokens, whole.usage.total_tokens) == (64, whole.usage.prompt_tokens + 64)
    reasoning = getattr(choice.message, "reasoning", None) or ""
    assert (choice.message.content or "") + reasoning == ask(client, "the same question")


def test_32_streams_when_run_together_then_each_gives_the_tokens_it_gives_alone(client: openai.OpenAI) -> None:
    questions = [f"Question {i}: " + "why " * (i * 3) for i in range(32)]
    alone = [ask(client, question) for question in questions]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(lambda question: ask(client, question), questions))
    assert together == alone


def test_answers_when_random_weights_write_malformed_harmony_then_every_stream_ends_well(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str:
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "anything"}],
            temperature=2.0,
            seed=seed,
            max_tokens=150,
        )
        return answer.choices[0].finish_reason

    with ThreadPoolExecutor(8) as pool:
        reasons = list(pool.map(sample, range(24)))
    assert set(reasons) <= {"length", "stop", "tool_calls"}


def test_seeded_request_when_asked_twice_then_it_answers_the_same(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "dice"}], seed=seed, max_tokens=30, extra_body=IGNORE_EOS
        )
        return answer.choices[0].message.content

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)


def test_prompt_when_asked_again_then_triton_answers_preprocess_from_its_cache_and_the_engine_reuses_its_keys(
    server: LiveServer, client: openai.OpenAI
) -> None:
    question = "A question long enough that its keys fill several blocks of the cache: " + "tell me more. " * 20
    hits = server.triton_metric("nv_cache_num_hits_per_model", model="preprocess")
    first = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], max_tokens=2, temperature=0.3
    )
    again = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": question}], max_tokens=3, temperature=0.7
    )
    wait_until(lambda: server.triton_metric("nv_cache_num_hits_per_model", model="preprocess") == hits + 1)
    assert first.usage is not None
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert again.usage.prompt_tokens_details.cached_tokens == (first.usage.prompt_tokens - 1) // 16 * 16


def test_models_when_listed_then_the_served_one_is_there_and_says_that_it_is_the_demo(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL, "gpt-oss"]
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


def test_health_and_metrics_when_asked_then_they_tell_what_serves(server: LiveServer, client: openai.OpenAI) -> None:
    ask(client, "for the count", 5)
    health = httpx.get(f"{server.url}/health").json()
    assert health["status"] == "ok"
    assert MODEL in json.dumps(health)
    assert server.metric("gptoss_requests_total", model=MODEL, outcome="length") > 0
    # the page is 100 ms behind
    wait_until(lambda: server.triton_metric("gptoss_engine_generation_tokens_total", model="gpt_oss_demo") > 0)
    for name in ("batch_size", "request_queue_time_seconds", "time_to_first_token_seconds"):
        assert server.triton_metric(f"gptoss_engine_{name}_count", model="gpt_oss_demo") > 0
        assert server.triton_metric(f"gptoss_engine_{name}_bucket", model="gpt_oss_demo", le="+Inf") > 0


def test_short_answers_when_many_clients_ask_on_and_on_then_the_server_lives(server: LiveServer) -> None:
    # each answer ends while others are asked about: what is said to the server after an answer's end must not harm it
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "ignore_eos": True}

    def ask_on(number: int) -> list[int]:
        with httpx.Client(base_url=server.url, timeout=60.0) as client:
            answers = [
                client.post("/v1/chat/completions", json=body | {"max_tokens": 1 + (number + i) % 3}) for i in range(25)
            ]
        return [answer.status_code for answer in answers]

    with ThreadPoolExecutor(32) as pool:
        statuses = [status for answers in pool.map(ask_on, range(32)) for status in answers]
    assert set(statuses) == {200}
