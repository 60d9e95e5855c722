"""What a person is told when a server is ready."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses
from gptoss_client.display import Display, how_to_use

LOG = """I1123 17:56:28.600000 21118 logs.py:20] "placement: single (it fits on one H100)"
I1123 17:56:28.677648 21118 logs.py:20] "KV cache: 1.2 GiB, 51,200 tokens"
I1123 17:56:29.000000 21119 logs.py:20] "KV cache: 1.2 GiB, 51,200 tokens"
I1123 17:56:29.100000 21118 logs.py:20] "gpt_oss_demo is ready on cpu"
"""


def told(log: Path) -> list[str]:
    output = io.StringIO()
    Display(Console(file=output), ["how to use it"], triton_logs=[log]).ready(5.87)
    return output.getvalue().splitlines()


def test_ready_when_the_engines_logged_their_caches_then_each_size_is_told_once(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(LOG, encoding="utf-8")
    placement = "placement   single (it fits on one H100)"
    assert told(log) == ["ready in 5.9 s", placement, "KV cache    1.2 GiB, 51,200 tokens", "how to use it"]


def test_ready_when_the_console_lacks_a_sign_then_nothing_is_harmed() -> None:
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    Display(Console(file=output), ["⠙"]).ready(5.87)
    output.seek(0)
    assert output.read() == "ready in 5.9 s\n"


def test_ready_when_there_is_no_log_then_the_rest_is_told(tmp_path: Path) -> None:
    assert told(tmp_path / "triton.log") == ["ready in 5.9 s", "how to use it"]


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, ["curl -N http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type"]),
        (
            {"keys_path": "/keys", "tls_certificate": "/cert", "tls_key": "/key"},
            ["curl -kN https://127.0.0.1:8000/", '-H "Authorization: Bearer $OPENAI_API_KEY"'],
        ),
    ],
)
def test_how_to_use_when_keys_and_certificates_are_set_then_the_first_request_minds_them(
    settings: dict[str, str], options: list[str]
) -> None:
    addresses = Addresses.of(load_settings({"adapter": settings}, environ={}))
    lines = how_to_use(MODELS_BY_SHORT["demo"], addresses, Path("logs"), "Ctrl-C", asks_for_key="keys_path" in settings)
    [request] = [line for line in lines if line.startswith("curl ")]
    assert all(option in request for option in options)


def test_how_to_use_when_others_may_come_in_without_a_key_then_it_says_so() -> None:
    addresses = Addresses.of(load_settings({}, environ={}))
    told = {
        is_open: how_to_use(
            MODELS_BY_SHORT["demo"], addresses, Path("logs"), "Ctrl-C", asks_for_key=False, is_open=is_open
        )
        for is_open in (True, False)
    }
    assert set(told[True]) - set(told[False]) == {
        "for all     who reach this machine: adapter.keys_path asks them for a key"
    }


def test_waiting_when_the_engine_reads_its_layers_then_a_bar_shows_how_far_it_is(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text(
        'I1123 logs.py:20] "gpt_oss_20b: layer 5 of 24 loaded"\nI1123 "layer 6 of 24 loaded"\n', encoding="utf-8"
    )
    output = io.StringIO()
    Display(Console(file=output, width=200), triton_logs=[log]).waiting(["tritonserver loads gpt_oss_20b"], 7.2)
    assert output.getvalue() == "7 s: tritonserver loads gpt_oss_20b [======                  ] layer 6 of 24\n"


def test_waiting_when_there_are_several_replicas_then_the_bar_is_of_the_layers_of_all(tmp_path: Path) -> None:
    first, second = tmp_path / "triton.log", tmp_path / "triton-1.log"
    first.write_text('I1123 logs.py:20] "gpt_oss_20b: layer 18 of 24 loaded"\n', encoding="utf-8")
    output = io.StringIO()
    Display(Console(file=output, width=200), triton_logs=[first, second]).waiting(["both load"], 7.2)
    second.write_text('I1123 logs.py:20] "gpt_oss_20b: layer 24 of 24 loaded"\n', encoding="utf-8")
    Display(Console(file=output, width=200), triton_logs=[first, second]).waiting(["both load"], 8.2)
    assert output.getvalue().splitlines() == [
        "7 s: both load [=========               ] 18 of 48 layers of 2 replicas",
        "8 s: both load [=====================   ] 42 of 48 layers of 2 replicas",
    ]


def test_ready_when_the_replicas_logged_the_same_then_it_is_told_once(tmp_path: Path) -> None:
    logs = [tmp_path / "triton.log", tmp_path / "triton-1.log"]
    for log in logs:
        log.write_text(LOG, encoding="utf-8")
    output = io.StringIO()
    Display(Console(file=output), triton_logs=logs).ready(5.87)
    assert len(output.getvalue().splitlines()) == 3
