"""Whatever was asked for, each answer and each figure names the model and profile that served it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

ALIAS = "gpt-oss"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(params=["by its name", "by the alias"])
def asked(request: pytest.FixtureRequest, model: str) -> str:
    return model if request.param == "by its name" else ALIAS


def test_chat_when_answered_then_names_the_model(http: httpx.Client, asked: str, model: str) -> None:
    answer = http.post("/v1/chat/completions", json=CHAT | {"model": asked}).raise_for_status().json()
    assert answer["model"] == model
    assert answer["system_fingerprint"].startswith("fp_")


def test_chat_when_streamed_then_each_chunk_names_the_model(http: httpx.Client, asked: str, model: str) -> None:
    with http.stream("POST", "/v1/chat/completions", json=CHAT | {"model": asked, "stream": True}) as answer:
        chunks = [line for line in answer.iter_lines() if line.startswith("data: {")]
    assert chunks
    assert all(f'"model":"{model}"' in chunk for chunk in chunks)


def test_response_when_answered_then_names_the_model(http: httpx.Client, asked: str, model: str) -> None:
    body = {"model": asked, "input": "Hello", "max_output_tokens": 16, "store": False}
    assert http.post("/v1/responses", json=body).raise_for_status().json()["model"] == model


def test_completion_when_answered_then_names_the_model(http: httpx.Client, asked: str, model: str) -> None:
    body = {"model": asked, "prompt": "Hello", "max_tokens": 4}
    assert http.post("/v1/completions", json=body).raise_for_status().json()["model"] == model


def test_chat_when_the_model_is_not_served_then_404_names_it(http: httpx.Client) -> None:
    refused = http.post("/v1/chat/completions", json=CHAT | {"model": "gpt-5"})
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "model_not_found"
    assert "gpt-5" in refused.json()["error"]["message"]


def test_figures_when_a_chat_was_answered_then_they_carry_model_and_profile(http: httpx.Client, model: str) -> None:
    def at_length() -> dict[tuple[str, str], int]:
        served = http.get("/stats").raise_for_status().json()["served"]
        return {(one["model"], one["profile"]): one["ended"]["length"] for one in served}

    before = at_length()
    http.post("/v1/chat/completions", json=CHAT | {"model": ALIAS, "ignore_eos": True}).raise_for_status()
    grown = [key for key, count in at_length().items() if count > before.get(key, 0)]
    assert [name for name, _ in grown] == [model]
    [(_, profile)] = grown
    page = http.get("/metrics").text
    assert any(
        line.startswith("gptoss_requests_total{") and f'model="{model}"' in line and f'profile="{profile}"' in line
        for line in page.splitlines()
    )
