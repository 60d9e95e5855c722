"""The items that a kept response was made from, listed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gptoss_adapter.schemas.carried_text import reasoning_of
from support.responses_api import RESPONSES, keeping_adapter, listed, respond

url_and_server = keeping_adapter()


def test_input_items_when_listed_then_they_are_whole_and_the_newest_comes_first(client: httpx.Client) -> None:
    first = respond(client, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}])
    page = listed(client, first["id"])
    assistant, user = page["data"]
    assert (page["object"], page["has_more"]) == ("list", False)
    assert (page["first_id"], page["last_id"]) == (assistant["id"], user["id"])
    assert user.pop("id").startswith("msg_")
    assert user == {
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hi"}],
    }
    assert assistant["content"] == [{"type": "output_text", "text": "Yes?", "annotations": []}]


def test_input_when_its_text_carries_logprobs_then_they_are_not_kept(client: httpx.Client) -> None:
    part = {"type": "input_text", "text": "Hi", "annotations": [{}] * 9, "logprobs": [{}] * 9}
    told = respond(client, [{"type": "message", "role": "user", "content": [part]}])
    kept = listed(client, told["id"])["data"][0]["content"][0]
    assert (kept["annotations"], kept["logprobs"]) == ([], [])


def test_input_items_when_reasoning_is_to_be_carried_then_it_is_told_again(client: httpx.Client) -> None:
    second = respond(client, previous_response_id=respond(client)["id"])
    plain = [item for item in listed(client, second["id"])["data"] if item["type"] == "reasoning"]
    asked = {"include[]": ["reasoning.encrypted_content", "message.output_text.logprobs"]}
    [carried] = [item for item in listed(client, second["id"], **asked)["data"] if item["type"] == "reasoning"]
    assert reasoning_of(carried.pop("encrypted_content")) == "Easy."
    assert [carried] == plain


def test_input_items_when_a_response_continues_another_then_all_it_was_made_from_is_listed_page_by_page(
    client: httpx.Client,
) -> None:
    first = respond(client)
    second = respond(client, "more", previous_response_id=first["id"])
    kinds, after = [], None
    for num_left in (3, 2, 1, 0):
        query = {"limit": 1, "order": "asc"} | ({"after": after} if after else {})
        page = listed(client, second["id"], **query)
        [item] = page["data"]
        kinds.append((item["type"], item.get("role")))
        assert page["has_more"] is (num_left > 0)
        after = item["id"]
    assert kinds == [("message", "user"), ("reasoning", None), ("message", "assistant"), ("message", "user")]
    end = listed(client, second["id"], order="asc", after=after)
    assert (end["data"], end["first_id"], end["has_more"]) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [({"limit": 0}, "limit"), ({"limit": 101}, "limit"), ({"order": "up"}, "order"), ({"after": "x"}, "after")],
)
def test_input_items_when_the_query_is_wrong_then_400_names_the_parameter(
    client: httpx.Client, query: dict[str, Any], param: str
) -> None:
    response = client.get(f"{RESPONSES}/{respond(client)['id']}/input_items", params=query)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
