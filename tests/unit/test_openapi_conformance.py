"""Requests made up from our own /openapi.json: none breaks the server, each is answered as the document promises."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gptoss_adapter.app import create_app
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import live

_SECTIONS = {"model": "demo", "adapter": {"responses_path": ":memory:"}}


def _app() -> object:
    return create_app(
        load_settings(_SECTIONS, environ={}), model_server=FakeModelServer(), today=lambda: date(2026, 11, 23)
    )


schema = schemathesis.openapi.from_dict(_app().openapi())  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live(_app()) as url:  # type: ignore[arg-type]
        yield url


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Keep a connection: for most of the thousands of requests a new one takes longer than the answer."""
    with requests.Session() as session:
        session.trust_env = False  # nor does each look for a proxy
        yield session


@schema.parametrize()
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_endpoint_when_asked_anything_then_it_answers_as_the_document_says(
    case: schemathesis.Case, url: str, session: requests.Session
) -> None:
    case.call_and_validate(
        base_url=url,
        session=session,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            response_schema_conformance,
        ],
        timeout=30,
    )
