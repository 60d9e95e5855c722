"""vLLM's and llama.cpp's words for a form of the text: what the model server is told."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
import torch

from gptoss_backend.contract import OutputStructure, ResponseFormat, SamplingParams, TextForm, TextFormKind
from gptoss_backend.engine.edits import LogitEdits, apply_edits
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import chat_body

SETTINGS = load_settings(
    {"model": "demo", "server": {"triton_metrics_port": 9}, "adapter": {"max_schema_bytes": 2048}}, environ={}
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
CASES: list[tuple[dict[str, Any], ResponseFormat | TextForm | None]] = [
    ({"structured_outputs": {"json": SCHEMA}}, ResponseFormat(SCHEMA, where="structured_outputs.json")),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, ResponseFormat(SCHEMA, where="structured_outputs.json")),
    ({"structured_outputs": {"json_object": True}}, ResponseFormat(where="structured_outputs.json_object")),
    (
        {"structured_outputs": {"regex": "a+", "disable_fallback": True, "choice": None}},
        TextForm(TextFormKind.REGEX, ("a+",), "structured_outputs.regex"),
    ),
    (
        {"structured_outputs": {"choice": ["a", "b"]}},
        TextForm(TextFormKind.CHOICE, ("a", "b"), "structured_outputs.choice"),
    ),
    (
        {"structured_outputs": {"grammar": 'start: "a"'}},
        TextForm(TextFormKind.GRAMMAR, ('start: "a"',), "structured_outputs.grammar"),
    ),
    ({"guided_json": SCHEMA}, ResponseFormat(SCHEMA, where="guided_json")),
    ({"guided_regex": "a+"}, TextForm(TextFormKind.REGEX, ("a+",), "guided_regex")),
    ({"guided_choice": ["a"]}, TextForm(TextFormKind.CHOICE, ("a",), "guided_choice")),
    (
        {"guided_grammar": 'start: "a"', "guided_decoding_backend": "guidance"},
        TextForm(TextFormKind.GRAMMAR, ('start: "a"',), "guided_grammar"),
    ),
    (
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        ResponseFormat(SCHEMA, where="response_format.schema"),
    ),
    ({"response_format": {"type": "text"}, "guided_regex": None}, None),
]


def send(client: httpx.Client, path: str, fields: dict[str, Any]) -> httpx.Response:
    said = {"completions": {"prompt": "Hi"}, "responses": {"input": "Hi"}}
    body = chat_body(**fields) if path == "chat/completions" else {"model": "gpt-oss", **said[path], **fields}
    return client.post(f"/v1/{path}", json=body)


@pytest.mark.parametrize(
    ("path", "fields", "form"),
    [
        *(("chat/completions", *case) for case in CASES),
        *(("responses", *case) for case in CASES if "response_format" not in case[0]),
    ],
)
def test_answer_when_its_form_is_asked_for_then_prompt_and_answer_are_told(
    client: httpx.Client,
    server: FakeModelServer,
    path: str,
    fields: dict[str, Any],
    form: ResponseFormat | TextForm | None,
) -> None:
    assert send(client, path, fields).status_code == 200
    (chat,), (sampling,) = server.chats, server.samplings
    assert chat.response_format == (form if isinstance(form, ResponseFormat) else None)
    assert chat.form == (form if isinstance(form, TextForm) else None)
    held = sampling.structure
    assert (None if held is None else held.final or held.form) == form
    assert held is None or not held.is_whole


@pytest.mark.parametrize(("fields", "form"), CASES)
def test_completion_when_its_form_is_asked_for_then_the_whole_text_is_held(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], form: ResponseFormat | TextForm | None
) -> None:
    assert send(client, "completions", fields).status_code == 200
    (sampling,) = server.samplings
    if form is None:
        assert sampling.structure is None
    elif isinstance(form, TextForm):
        assert sampling.structure == OutputStructure(form=form, is_whole=True)
    else:
        assert sampling.structure == OutputStructure(form, is_whole=True)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "a"}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        ({"structured_outputs": {"json": [1]}}, "structured_outputs.json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"guided_json": {"description": "x" * 2048}}, "guided_json"),
        ({"guided_regex": "x" * 2049}, "guided_regex"),
        ({"guided_choice": ["x" * 1000] * 3}, "guided_choice"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": [""]}, "guided_choice[0]"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"response_format": {"type": "json_object", "schema": {"a": "x" * 2048}}}, "response_format.schema"),
        ({"bad_words": ["no"]}, "bad_words"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
    ],
)
def test_form_when_it_is_at_odds_or_too_large_then_400_names_it(
    client: httpx.Client, server: FakeModelServer, path: str, fields: dict[str, Any], param: str
) -> None:
    response = send(client, path, fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert server.streams == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "a", "text": {"format": {"type": "json_object"}}}, "guided_regex"),
        ({"structured_outputs": {"choice": ["a"]}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"guided_json": {"description": "x" * 2048}}, "guided_json"),
        ({"guided_choice": ["x" * 1000] * 3}, "guided_choice"),
        ({"allowed_token_ids": [5]}, "allowed_token_ids"),
    ],
)
@pytest.mark.parametrize("path", ["responses", "responses/input_tokens"])
def test_form_of_a_response_when_it_is_at_odds_or_too_large_then_400_names_it(
    client: httpx.Client, server: FakeModelServer, path: str, fields: dict[str, Any], param: str
) -> None:
    response = client.post(f"/v1/{path}", json={"model": "gpt-oss", "input": "Hi", **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text
    assert server.streams == []


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
def test_allowed_tokens_when_said_then_they_reach_the_engine(
    client: httpx.Client, server: FakeModelServer, path: str
) -> None:
    assert send(client, path, {"allowed_token_ids": [5, 200002], "bad_words": []}).status_code == 200
    assert server.samplings[0].allowed_token_ids == (5, 200002)


def test_allowed_tokens_when_logits_are_edited_then_all_others_are_out() -> None:
    edits = LogitEdits.of(SamplingParams(allowed_token_ids=(5, 2, 5), logit_bias={2: 1.0}), [], frozenset(), None)
    assert edits is not None
    row = torch.zeros(8)
    assert edits.prepare()
    apply_edits([edits], row[None])
    assert row.tolist() == [1.0 if token == 2 else 0.0 if token == 5 else -torch.inf for token in range(8)]
