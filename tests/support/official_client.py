"""OpenAI's own client of an adapter that keeps responses, before a scripted model: fixtures.

A test module says `url_and_server, url, client = client_fixtures()`, and those three are fixtures then.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from support.fake_model_server import FakeModelServer
from support.responses_api import serving


def client_fixtures() -> tuple[object, object, object]:
    """Return fixtures of the adapter with its model server, for the whole module, of its URL and of the client."""

    @pytest.fixture(scope="module")
    def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
        server = FakeModelServer()
        with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
            yield f"{url}/v1", server

    @pytest.fixture
    def url(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> str:
        return url_and_server[0]

    @pytest.fixture
    def client(url: str) -> Iterator[OpenAI]:
        with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            yield client

    return url_and_server, url, client
