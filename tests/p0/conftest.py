"""The server that the operators' tests look at: a running one, given by --url, or one of their own.

pytest tests/p0 --url http://127.0.0.1:8000
MODEL=20b pytest tests/p0
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from support import live_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--url", help="a running server, as http://127.0.0.1:8000; without it one is started with $MODEL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # unknown to pytest where this folder was not named on its command line
    given = request.config.getoption("--url", default=None)
    if given:
        yield given.rstrip("/")
        return
    server = live_server.start(tmp_path_factory.mktemp("run"), None, model=os.environ.get("MODEL") or "demo")
    yield server.url
    status, output = live_server.stop(server)
    assert status == 0, output


@pytest.fixture(scope="session")
def http(url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    with httpx.Client(base_url=url, headers=headers, timeout=120.0) as http:
        yield http


@pytest.fixture(scope="session")
def client(url: str) -> Iterator[openai.OpenAI]:
    key = os.environ.get("OPENAI_API_KEY", "none")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120.0) as client:
        yield client


@pytest.fixture(scope="session")
def model(http: httpx.Client) -> str:
    """The model the server has, as it names it."""
    name: str = http.get("/v1/models").raise_for_status().json()["data"][0]["id"]
    return name
