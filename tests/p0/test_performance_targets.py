"""Under a short load of people who chat, the service keeps its targets, by its own count.

DURATION_S (10) is how long, USERS (4) how many.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from load.prompts import PromptBook

from gptoss_adapter.stats_targets import TARGETS, WEIGHTS_PER_GPU

DURATION_S = float(os.environ.get("DURATION_S") or 10)
NUM_USERS = int(os.environ.get("USERS") or 4)
MAX_TOKENS = 64
REPEAT_SHARE = 0.6
DOCUMENT_WORDS = 300
DOCUMENT_EVERY = 5


def chat_until(client: openai.OpenAI, model: str, user: int, deadline: float) -> int:
    """Ask one question after the other; returns how many."""
    book = PromptBook(f"p0/{user}", repeat_share=REPEAT_SHARE, document_words=DOCUMENT_WORDS)
    count = 0
    while count == 0 or time.monotonic() < deadline:
        count += 1
        question = book.document_question() if count % DOCUMENT_EVERY == 0 else book.question()
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], max_tokens=MAX_TOKENS, stream=True
        )
        assert [chunk.choices[0].finish_reason for chunk in answer][-1] is not None
    return count


@pytest.fixture(scope="module")
def targets(client: openai.OpenAI, http: httpx.Client, model: str) -> dict[str, dict[str, Any]]:
    """What /stats says of its targets after the load, by name."""
    deadline = time.monotonic() + DURATION_S
    with ThreadPoolExecutor(NUM_USERS) as users:
        asked = list(users.map(lambda user: chat_until(client, model, user, deadline), range(NUM_USERS)))
    stats = http.get("/stats").raise_for_status().json()
    print(f"\n{sum(asked)} chats by {NUM_USERS} users")
    for target in stats["targets"]:
        print("  {target:16} {value} {comparison} {limit:g} {unit}: holds {holds}".format_map(target))
    return {target["target"]: target for target in stats["targets"]}


def test_targets_when_people_chat_then_each_is_measured(
    targets: dict[str, dict[str, Any]], http: httpx.Client, model: str
) -> None:
    on_gpus = bool(http.get("/stats").raise_for_status().json()["gpus"])
    measured = {name for name, target in targets.items() if target["value"] is not None}
    promised = {target.name for target in TARGETS if target.is_promised_of(model)}
    assert measured >= (promised if on_gpus else promised - {WEIGHTS_PER_GPU.name})


@pytest.mark.parametrize("name", [target.name for target in TARGETS])
def test_target_when_people_chat_then_it_holds(targets: dict[str, dict[str, Any]], name: str) -> None:
    target = targets.get(name)
    if target is None or target["value"] is None:
        pytest.skip("it is not promised of this model, or there is no GPU whose memory weights would take")
    assert target["holds"], target
