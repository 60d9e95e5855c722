"""An adapter before a scripted model server, over sockets, for the modules that have SETTINGS and none of their own.

What an adapter needs is imported on first use: the kernels' tests run on GPU machines that have none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import httpx
    from openai import OpenAI

    from support.fake_model_server import FakeModelServer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the responses of a module are kept."""
    return tmp_path_factory.mktemp("store") / "responses.sqlite"


@pytest.fixture(scope="module")
def url_and_server(request: pytest.FixtureRequest) -> Iterator[tuple[str, FakeModelServer]]:
    """Serve what the module's SETTINGS say, from a scripted model server; for the whole module."""
    from gptoss_adapter.app import create_app
    from support.fake_model_server import FakeModelServer
    from support.live_app import live

    server = FakeModelServer()
    with live(create_app(request.module.SETTINGS, model_server=server)) as url:
        yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer]) -> FakeModelServer:
    """Return the model server, as new."""
    url_and_server[1].forget()
    return url_and_server[1]


@pytest.fixture
def client(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[httpx.Client]:
    """Return a client of the adapter, whose model server is as new."""
    import httpx

    with httpx.Client(base_url=url_and_server[0], timeout=10) as client:
        yield client


@pytest.fixture
def openai(client: httpx.Client) -> Iterator[OpenAI]:
    """Return OpenAI's client of the adapter."""
    from openai import OpenAI

    with OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as openai:
        yield openai
