"""Which replica a prompt goes to, and where the replicas are."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Sequence

import pytest

from gptoss_adapter.fleet_addresses import ReplicaNames
from gptoss_adapter.fleet_affinity import ALWAYS_ALLOWED, MAX_OVER_MEAN, USER, choose, conversation_of, rendering
from gptoss_adapter.inference import PromptIds
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.settings import SettingsError
from gptoss_backend.settings_sources import load_settings

SYSTEM = "<|start|>system<|message|>You are ChatGPT.<|end|>"
FLEET = ["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001"]
IDLE = dict.fromkeys(FLEET, 0)


def harmony(text: str) -> PromptIds:
    ids: Sequence[int] = encoding().encode(text, allowed_special="all")
    return PromptIds(b"".join(token.to_bytes(4, "little") for token in ids))


def said(question: str, more: str = "") -> bytes:
    return conversation_of(harmony(f"{SYSTEM}<|start|>user<|message|>{question}<|end|>{more}<|start|>assistant"))


def test_user_when_encoded_then_it_is_the_token_that_is_looked_for() -> None:
    assert encoding().encode("user") == [USER]


def test_conversation_when_it_grows_then_it_stays_the_same_one() -> None:
    grown = "<|start|>assistant<|channel|>final<|message|>Paris.<|end|><|start|>user<|message|>And of Spain?<|end|>"
    assert said("The capital of France?", grown) == said("The capital of France?")
    assert said("The capital of Spain?") != said("The capital of France?")


def test_conversation_when_questions_follow_one_long_document_then_it_is_the_same_one() -> None:
    document = "All happy families are alike. " * 60
    assert said(document + "Who wrote it?") == said(document + "When?")


@pytest.mark.parametrize("ids", [(), (5,), (200006,), (200006, 17360), tuple(range(1000))])
def test_conversation_when_there_is_no_user_then_its_beginning_names_it(ids: tuple[int, ...]) -> None:
    raw = b"".join(token.to_bytes(4, "little") for token in ids)
    other = b"".join(token.to_bytes(4, "little") for token in (9, *ids))
    assert conversation_of(PromptIds(raw)) != conversation_of(PromptIds(other))
    assert conversation_of(PromptIds(raw + b"\x01\0\0\0")) == conversation_of(PromptIds(raw)) or len(ids) < 256


def conversations(count: int) -> list[bytes]:
    return [number.to_bytes(16, "little") for number in range(count)]


def test_choice_when_replicas_are_idle_then_conversations_spread() -> None:
    shares = Counter(choose(one, IDLE) for one in conversations(3000))
    assert all(900 < shares[address] < 1100 for address in FLEET)


def test_choice_when_a_replica_goes_then_only_its_conversations_move() -> None:
    left = dict.fromkeys(FLEET[1:], 0)
    for one in conversations(200):
        if choose(one, IDLE) != FLEET[0]:
            assert choose(one, left) == choose(one, IDLE)


def test_choice_when_the_favourite_has_far_more_to_do_then_another_takes_it() -> None:
    (one,) = conversations(1)
    favourite = choose(one, IDLE)
    busy = IDLE | {favourite: ALWAYS_ALLOWED}
    assert choose(one, busy) == favourite, "a few more are no reason"
    assert choose(one, IDLE | {favourite: 20}) != favourite


def test_choice_when_all_ask_the_same_then_none_has_more_than_the_bound() -> None:
    (one,) = conversations(1)
    loads = dict(IDLE)
    for num_before in range(300):
        chosen = choose(one, loads)
        loads[chosen] += 1
        assert loads[chosen] <= MAX_OVER_MEAN * (num_before + 1) / len(FLEET) + ALWAYS_ALLOWED
    assert choose(one, {FLEET[0]: 10_000}) == FLEET[0]


# --- where they are -------------------------------------------------------------------------------------------------


def test_names_when_they_are_looked_up_then_each_address_is_there_once() -> None:
    names = ReplicaNames(["10.0.0.2:8001", "dns:///localhost:8001", "127.0.0.1:8001", "[::1]:8002"])
    assert asyncio.run(names.look_up()) == ("10.0.0.2:8001", "127.0.0.1:8001", "[::1]:8002")


def test_names_when_the_look_up_fails_then_they_stand_for_what_they_stood_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[str]] = [["10.0.0.1", "10.0.0.2"], [], ["10.0.0.2"]]

    async def look_up() -> list[tuple[str, ...]]:
        async def getaddrinfo(host: str, port: int, **_: object) -> list[object]:
            found = answers.pop(0)
            if not found:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        names = ReplicaNames(["dns:///triton:8001"])
        return [await names.look_up() for _ in range(3)]

    both = ("10.0.0.1:8001", "10.0.0.2:8001")
    assert asyncio.run(look_up()) == [both, both, ("10.0.0.2:8001",)]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_rendering_when_a_chat_comes_again_then_it_is_the_same_and_a_lost_replica_moves_only_its_own() -> None:
    chats = conversations(300)
    chosen = [rendering(chat, FLEET) for chat in chats]

    assert chosen == [rendering(chat, reversed(FLEET)) for chat in chats]
    assert min(Counter(chosen).values()) >= 70
    without = [rendering(chat, FLEET[1:]) for chat in chats]
    assert {before for before, after in zip(chosen, without, strict=True) if before != after} == {FLEET[0]}


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("dns:///gptoss-triton:8001", ["dns:///gptoss-triton:8001"]),
        ("10.0.0.1:8001, [fd00::1]:8001", ["10.0.0.1:8001", "[fd00::1]:8001"]),
        ("[a.b:8001, 10.0.0.2:8001]", ["a.b:8001", "10.0.0.2:8001"]),
        ("", None),
    ],
)
def test_setting_when_replicas_are_named_then_each_is_a_target(text: str, targets: list[str] | None) -> None:
    environ = {"GPTOSS_SERVER__TRITON_REPLICAS": text}
    assert load_settings(environ=environ).server.triton_replicas == targets


@pytest.mark.parametrize("text", ["10.0.0.1", "http://a:8001", "a:b", "::1:8001", "a:8001,", "[]", "7"])
def test_setting_when_it_names_no_replica_then_the_start_says_so(text: str) -> None:
    with pytest.raises(SettingsError, match=r"server\.triton_replicas"):
        load_settings(environ={"GPTOSS_SERVER__TRITON_REPLICAS": text})
