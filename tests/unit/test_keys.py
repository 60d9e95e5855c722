"""API keys: the file, its reload, and who may ask for what."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from typer.testing import CliRunner

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import InvalidKeyError
from gptoss_adapter.keys import KeyFile, KeyFileError
from gptoss_backend.keys import KeyFormatError, parse_keys
from gptoss_backend.settings import SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.cli import app
from gptoss_client.errors import CommandError, UsageError
from gptoss_client.keys import add_key
from support.fake_model_server import FOREVER, HELLO, FakeModelServer
from support.live_app import chat_body, live, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def text_body(**fields: object) -> dict[str, object]:
    return {"model": "gpt-oss-demo", **fields}


def settled(keys: KeyFile) -> None:
    keys.refresh()
    keys.refresh()


# --- the file -------------------------------------------------------------------------------------------------------


def test_add_key_when_there_is_no_file_then_it_is_made_for_its_owner_and_holds_no_key(path: Path) -> None:
    key = add_key(path, "alice", 3)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text()
    assert KeyFile(path).check(f"Bearer {key}").name == "alice"
    assert parse_keys(path.read_text())[0].max_concurrency == 3


def test_add_key_when_the_last_line_was_left_open_then_it_is_ended(path: Path) -> None:
    first = add_key(path, "alice")
    path.write_text(path.read_text().rstrip("\n"))
    second = add_key(path, "bob")
    keys = KeyFile(path)
    assert [keys.check(f"bearer {key}").name for key in (first, second)] == ["alice", "bob"]


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 65, "#1"])
def test_add_key_when_the_name_is_odd_then_nothing_is_written(path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a key's name is"):
        add_key(path, name)
    assert not path.exists()


def test_add_key_when_there_is_nowhere_to_write_then_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"adapter\.keys_path"):
        add_key(None, "alice")
    with pytest.raises(CommandError, match="cannot write the file of keys"):
        add_key(tmp_path / "none" / "keys", "alice")


def test_command_when_a_key_is_asked_for_then_it_is_printed_and_opens(path: Path) -> None:
    run = CliRunner().invoke(app, ["key", "alice", "--keys", str(path), "--max-concurrency", "2"])
    assert run.exit_code == 0
    assert KeyFile(path).check(f"Bearer {run.output.strip()}") == parse_keys(path.read_text())[0]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "it holds no key"),
        ("# nobody\n\n", "it holds no key"),
        ("alice\n", "line 1 does not hold a SHA-256"),
        ("# x\nalice abc\n", "line 2 does not hold a SHA-256"),
        (f"alice {'0' * 64} 0\n", "line 1 does not end in a number"),
        (f"alice {'0' * 64} 1 2\n", "line 1 is not"),
        (f"a/b {'0' * 64}\n", "line 1 is not"),
    ],
)
def test_parse_when_a_line_is_malformed_then_it_is_named_and_not_quoted(text: str, sentence: str) -> None:
    with pytest.raises(KeyFormatError, match=sentence) as raised:
        parse_keys(text)
    assert "abc" not in str(raised.value)


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer  ", "Basic {key}", "{key}", "Bearer {key}x", "Bearer ü"]
)
def test_check_when_the_header_names_no_key_then_it_is_refused(path: Path, header: str | None) -> None:
    key = add_key(path, "alice")
    with pytest.raises(InvalidKeyError) as raised:
        KeyFile(path).check(header and header.format(key=key))
    assert key not in raised.value.message


def test_key_file_when_there_is_none_then_the_start_is_refused(path: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(path)


def test_refresh_when_the_file_changes_then_it_is_read_once_it_is_left_alone(path: Path) -> None:
    first = add_key(path, "alice")
    keys = KeyFile(path)
    second = add_key(path, "bob")
    keys.refresh()
    with pytest.raises(InvalidKeyError):
        keys.check(f"Bearer {second}")
    keys.refresh()
    assert keys.check(f"Bearer {second}").name == "bob"
    assert keys.check(f"Bearer {first}").name == "alice"


@pytest.mark.parametrize("text", [b"", b"alice\n", b"\xff\xfe", None])
def test_refresh_when_the_file_is_spoilt_then_the_earlier_keys_stay_and_one_error_is_logged(
    path: Path, caplog: pytest.LogCaptureFixture, text: bytes | None
) -> None:
    key = add_key(path, "alice")
    keys = KeyFile(path)
    if text is None:
        path.unlink()
    else:
        path.write_bytes(text)
    with caplog.at_level(logging.ERROR):
        settled(keys)
        settled(keys)
    assert keys.check(f"Bearer {key}").name == "alice"
    assert len(caplog.messages) == 1
    assert "the earlier keys stay in force" in caplog.messages[0]


# --- over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> FakeModelServer:
    return FakeModelServer()


def serving(path: Path, server: FakeModelServer, **adapter: object) -> Iterator[httpx.Client]:
    sections = {"model": "demo", "adapter": {"keys_path": str(path), **adapter}}
    with (
        live(create_app(load_settings(sections, environ={}), model_server=server)) as url,
        httpx.Client(base_url=url) as client,
    ):
        yield client


@pytest.fixture
def key(path: Path) -> str:
    return add_key(path, "alice", 1)


@pytest.fixture
def client(path: Path, key: str, server: FakeModelServer) -> Iterator[httpx.Client]:
    yield from serving(path, server)


def test_request_when_it_has_no_key_then_401_in_openais_shape(client: httpx.Client, server: FakeModelServer) -> None:
    missing = client.post(CHAT, json=chat_body())
    wrong = client.post(CHAT, json=chat_body(), headers=bearer("sk-none"))
    assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    for response in (missing, wrong):
        error = response.json()["error"]
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert server.streams == []


def test_request_when_the_official_client_has_a_key_then_it_is_answered_and_else_told(
    client: httpx.Client, key: str
) -> None:
    def ask(key: str) -> None:
        with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key=key, max_retries=0) as official:
            official.chat.completions.create(model="gpt-oss", messages=[{"role": "user", "content": "Hi"}])

    ask(key)
    with pytest.raises(openai.AuthenticationError):
        ask("sk-other")


@pytest.mark.parametrize("path_", ["/health", "/health/live", "/health/ready", "/metrics", "/"])
def test_operators_paths_when_asked_without_a_key_then_they_are_open(client: httpx.Client, path_: str) -> None:
    assert client.get(path_).status_code == 200


@pytest.mark.parametrize(
    "path_", ["/v1/models", "/openapi.json", "/nothing", "/page", "/health/../v1/models", "//health"]
)
def test_any_other_path_when_asked_without_a_key_then_401(client: httpx.Client, path_: str) -> None:
    # the whole URL: joined to the client's, two slashes would be one
    assert client.get(f"{client.base_url}{path_}").status_code == 401


def test_metrics_when_they_are_not_open_then_they_ask_for_a_key(path: Path, key: str, server: FakeModelServer) -> None:
    for client in serving(path, server, open_metrics=False):
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers=bearer(key)).status_code == 200
        assert client.get("/health").status_code == 200


def test_keys_when_changed_under_load_then_no_request_fails_and_the_old_one_ends(
    path: Path, client: httpx.Client, key: str
) -> None:
    kept = add_key(path, "bob")
    wait_until(lambda: client.get("/v1/models", headers=bearer(kept)).status_code == 200)
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=client.base_url) as asking:
            while not is_over.is_set():
                statuses.append(asking.get("/v1/models", headers=bearer(kept)).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(3):
        newer = add_key(path, "carol")
        wait_until(lambda key=newer: client.get("/v1/models", headers=bearer(key)).status_code == 200)
    path.write_text(
        "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("alice"))
    )
    wait_until(lambda: client.get("/v1/models", headers=bearer(key)).status_code == 401)
    is_over.set()
    asking.join()
    assert set(statuses) == {200}
    assert len(statuses) > 10


def test_concurrency_when_a_key_has_as_many_as_it_may_then_429_and_later_it_may_again(
    path: Path, client: httpx.Client, key: str, server: FakeModelServer
) -> None:
    other = add_key(path, "bob")
    server.scripts = [[*HELLO[:5], FOREVER]]
    with client.stream("POST", CHAT, json=chat_body(stream=True), headers=bearer(key)) as stream:
        lines = stream.iter_lines()  # kept: a generator that is let go of hangs up
        next(lines)
        refused = client.post(CHAT, json=chat_body(), headers=bearer(key))
        wait_until(lambda: client.get("/v1/models", headers=bearer(other)).status_code == 200)
        others = client.post(CHAT, json=chat_body(), headers=bearer(other))
        listed = client.get("/v1/models", headers=bearer(key))
    assert refused.status_code == 429
    assert refused.json()["error"] == {
        "message": "The key 'alice' has 1 answers under way, as many as it may. Try again when one ends.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert int(refused.headers["retry-after"]) >= 1
    assert (others.status_code, listed.status_code) == (200, 200)
    wait_until(lambda: client.post(CHAT, json=chat_body(), headers=bearer(key)).status_code == 200)


def test_concurrency_when_a_request_asks_for_several_answers_then_each_of_them_counts(
    path: Path, server: FakeModelServer
) -> None:
    of_alice = bearer(add_key(path, "alice", 5))
    server.scripts = [[*HELLO[:5], FOREVER]] * 3
    for client in serving(path, server):
        with client.stream("POST", CHAT, json=chat_body(stream=True, n=3), headers=of_alice) as stream:
            lines = stream.iter_lines()
            next(lines)
            refused = client.post(CHAT, json=chat_body(n=3), headers=of_alice)
            fitting = client.post(CHAT, json=chat_body(n=2), headers=of_alice)
            texts = client.post(COMPLETIONS, json=text_body(prompt=["a", "b"], n=2), headers=of_alice)
        assert fitting.status_code == 200
        assert [refused.status_code, texts.status_code] == [429, 429]
        assert refused.json()["error"]["message"] == (
            "The request asks for 3 answers; the key 'alice' has 3 under way and may have 5 at once. "
            "Try again when some end."
        )
        assert int(refused.headers["retry-after"]) >= 1
        # what was refused, answered or cut off no longer counts
        wait_until(lambda client=client: client.post(CHAT, json=chat_body(n=5), headers=of_alice).status_code == 200)


@pytest.mark.parametrize(
    ("route", "asked"),
    [(CHAT, {"n": 6}), (COMPLETIONS, {"prompt": ["a", "b", "c"], "n": 2})],
    ids=["n", "prompts times n"],
)
def test_concurrency_when_one_request_asks_for_more_than_its_key_may_ever_have_then_400_says_so(
    path: Path, server: FakeModelServer, route: str, asked: dict[str, object]
) -> None:
    key = add_key(path, "alice")
    body = chat_body(**asked) if route == CHAT else text_body(**asked)
    for client in serving(path, server, max_concurrency_per_key=5):
        refused = client.post(route, json=body, headers=bearer(key))
        assert refused.status_code == 400
        assert refused.json()["error"] == {
            "message": "The request asks for 6 answers; the key 'alice' may have 5 at once.",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_value",
        }
        assert client.post(CHAT, json=chat_body(n=5), headers=bearer(key)).status_code == 200
    assert len(server.streams) == 5


def test_log_when_a_request_has_a_key_then_it_tells_its_name_and_never_the_key(
    client: httpx.Client, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    def ours() -> list[dict[str, object]]:
        return [vars(one) for one in caplog.records if one.name.startswith(("gptoss", "uvicorn"))]

    with caplog.at_level(logging.DEBUG):
        client.post(CHAT, json=chat_body(), headers=bearer(key))
        client.post(CHAT, json=chat_body(), headers=bearer(f"{key}x"))
        wait_until(lambda: sum("fields" in line for line in ours()) == 2)
    told = ours()
    assert ["'key': 'alice'" in str(line["fields"]) for line in told if "fields" in line] == [True, False]
    assert key not in json.dumps(told, default=str)


@pytest.mark.parametrize(
    ("adapter", "sentence"),
    [
        ({"max_concurrency_per_key": 2}, "max_concurrency_per_key is set, but keys_path is not"),
        ({"tls_key": "key.pem"}, "tls_key is set, but tls_certificate is not"),
        ({"cors_origins": ["https://example.com/"]}, "adapter.cors_origins.0"),
    ],
)
def test_settings_when_they_could_have_no_effect_then_they_stop_the_start(
    adapter: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        load_settings({"adapter": adapter}, environ=os.environ)


# --- priorities -----------------------------------------------------------------------------------------------------


def test_priority_when_a_key_may_not_hurry_then_only_later_ones_are_taken(path: Path) -> None:
    keys = {is_urgent: add_key(path, f"key{is_urgent}", is_urgent=is_urgent) for is_urgent in (False, True)}
    assert [key.is_urgent for key in parse_keys(path.read_text())] == [False, True]
    settings = load_settings({"model": "demo", "adapter": {"keys_path": str(path)}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url, httpx.Client(base_url=url) as client:
        for is_urgent, priority, status in ((False, -1, 400), (False, 0, 200), (False, 5, 200), (True, -1000, 200)):
            response = client.post(CHAT, json=chat_body(priority=priority), headers=bearer(keys[is_urgent]))
            assert response.status_code == status
            assert status == 200 or response.json()["error"]["param"] == "priority"


@pytest.mark.parametrize("fields", ["3 urgent", "urgent"])
def test_file_when_a_line_says_urgent_then_it_is_read_back(fields: str) -> None:
    line = f"alice {'a' * 64} {fields}\n"
    (key,) = parse_keys(line)
    assert (key.is_urgent, key.line()) == (True, line)
