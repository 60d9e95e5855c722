"""One real server for the whole integration run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from gptoss_backend.demo.random_checkpoint import DEMO_SHAPE, write_random_checkpoint
from support import live_server
from support.live_server import LiveServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "gpt-oss-demo"
    write_random_checkpoint(folder, DEMO_SHAPE, seed=20, name="gpt-oss-demo")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    server = live_server.start(tmp_path_factory.mktemp("run"), checkpoint)
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output


@pytest.fixture(autouse=True)
def _is_well(request: pytest.FixtureRequest) -> None:
    """A test that ended the shared server fails alone: the next one waits until the supervisor has it back."""
    if "server" in request.fixturenames:
        server: LiveServer = request.getfixturevalue("server")
        live_server.wait_until(lambda: live_server.answers(server), timeout_s=60.0)


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60.0) as client:
        yield client
