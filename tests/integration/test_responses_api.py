"""/v1/responses through the official client, the adapter and the real tritonserver."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.responses import Response

from support.live_server import LiveServer, wait_until

MODEL = "gpt-oss-demo"
# what `openai.OpenAI` has no argument for
IGNORE_EOS = {"ignore_eos": True}
QUESTION = "What is there to say? " * 20


def ask(client: openai.OpenAI, given: Any, **fields: Any) -> Any:  # noqa: ANN401 (as the client's)
    """Return a greedy response of exactly 32 tokens."""
    return client.responses.create(
        model=MODEL, input=given, temperature=0.0, max_output_tokens=32, extra_body=IGNORE_EOS, **fields
    )


def said(response: Response) -> list[tuple[str, str]]:
    """Return each item's kind and text, whatever random weights made of it."""
    items: list[Any] = list(response.output)
    return [
        (item.type, item.arguments if item.type == "function_call" else "".join(part.text for part in item.content))
        for item in items
    ]


def test_response_when_whole_and_streamed_then_both_say_the_same(client: openai.OpenAI) -> None:
    whole = ask(client, QUESTION)
    events = list(
        client.responses.create(
            model=MODEL, input=QUESTION, temperature=0.0, max_output_tokens=32, stream=True, extra_body=IGNORE_EOS
        )
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    last = events[-1]
    assert last.type == "response.incomplete"
    assert said(last.response) == said(whole)
    assert whole.status == "incomplete"
    assert whole.incomplete_details is not None
    assert whole.incomplete_details.reason == "max_output_tokens"
    assert whole.usage is not None
    assert whole.usage.output_tokens == 32


def test_response_when_it_is_continued_by_id_then_the_model_sees_what_it_sees_when_all_is_sent(
    client: openai.OpenAI,
) -> None:
    first = ask(client, QUESTION)
    by_id = ask(client, "And then?", previous_response_id=first.id)
    by_hand = ask(
        client,
        [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And then?"}],
        store=False,
    )
    assert by_id.usage is not None
    assert by_hand.usage is not None
    assert first.usage is not None
    assert by_id.usage.input_tokens == by_hand.usage.input_tokens > first.usage.input_tokens
    assert said(by_id) == said(by_hand)
    # the conversation's beginning is found in the KV cache
    assert by_id.usage.input_tokens_details.cached_tokens > first.usage.input_tokens // 2


def test_conversation_when_it_goes_on_then_the_model_sees_what_it_sees_by_id_and_finds_its_beginning(
    client: openai.OpenAI,
) -> None:
    conversation = client.conversations.create().id
    first = ask(client, QUESTION, conversation=conversation)
    second = ask(client, "And then?", conversation=conversation)
    by_id = ask(client, "And then?", previous_response_id=first.id)
    assert (second.conversation.id, second.usage.input_tokens) == (conversation, by_id.usage.input_tokens)
    assert said(second) == said(by_id)
    # all of the first turn that fills blocks of the KV cache: its prompt and its answer
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens
    kept: list[Any] = list(client.conversations.items.list(conversation, order="asc"))
    assert [item.id for item in kept if item.type != "message" or item.role == "assistant"] == [
        item.id for item in (*first.output, *second.output)
    ]


def test_response_when_kept_then_it_is_retrieved_listed_and_deleted(client: openai.OpenAI, server: LiveServer) -> None:
    first = ask(client, QUESTION)
    assert (server.run_dir / "responses.sqlite").exists()
    assert client.responses.retrieve(first.id) == first
    [item] = client.responses.input_items.list(first.id).data
    assert item.type == "message"
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError, match=first.id):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match=f"Previous response with id .{first.id}. not found"):
        ask(client, "And then?", previous_response_id=first.id)


def test_response_when_the_prompt_is_too_long_then_400_or_the_stream_names_the_input(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, "far too long " * 100_000)
    assert (refusal.value.param, refusal.value.code) == ("input", "context_length_exceeded")
    events = ask(client, "far too long " * 100_000, stream=True)
    assert [next(events).type, next(events).type] == ["response.created", "response.in_progress"]
    with pytest.raises(openai.APIError, match="maximum context length is 131072") as failure:
        next(events)
    assert (failure.value.param, failure.value.code) == ("input", "context_length_exceeded")


def test_stream_when_it_is_left_then_the_engine_stops_computing(client: openai.OpenAI, server: LiveServer) -> None:
    cancelled = server.triton_metric("gptoss_engine_requests_cancelled_total", model="gpt_oss_demo")
    with client.responses.create(
        model=MODEL, input="hi", max_output_tokens=4000, stream=True, extra_body=IGNORE_EOS
    ) as events:
        for event in events:
            if event.type.endswith(".delta"):
                break
    wait_until(
        lambda: server.triton_metric("gptoss_engine_requests_cancelled_total", model="gpt_oss_demo") == cancelled + 1
    )


def test_background_when_asked_for_then_it_is_polled_taken_up_and_cancelled(
    client: openai.OpenAI, server: LiveServer
) -> None:
    whole = ask(client, QUESTION)
    queued = ask(client, QUESTION, background=True)
    assert (queued.status, queued.background, queued.output) == ("queued", True, [])
    wait_until(lambda: client.responses.retrieve(queued.id).status == "incomplete")
    assert said(client.responses.retrieve(queued.id)) == said(whole)
    assert client.responses.cancel(queued.id).status == "incomplete"  # it is over

    stream = ask(client, QUESTION, background=True, stream=True)
    first, second, *_ = (next(stream) for _ in range(3))
    stream.close()  # the connection is lost
    assert (first.type, second.type) == ("response.created", "response.queued")
    rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=second.sequence_number))
    assert [event.sequence_number for event in rest] == list(range(2, len(rest) + 2))
    assert rest[-1].type == "response.incomplete"
    assert said(rest[-1].response) == said(whole)
    again = list(client.responses.retrieve(first.response.id, stream=True, starting_after=5))
    assert again == rest[4:]

    num_cancelled = server.triton_metric("gptoss_engine_requests_cancelled_total", model="gpt_oss_demo")
    endless = client.responses.create(
        model=MODEL, input="hi", max_output_tokens=4000, background=True, extra_body=IGNORE_EOS
    )
    wait_until(lambda: client.responses.retrieve(endless.id).status == "in_progress")
    assert client.responses.cancel(endless.id).status == "cancelled"
    wait_until(
        lambda: (
            server.triton_metric("gptoss_engine_requests_cancelled_total", model="gpt_oss_demo") == num_cancelled + 1
        )
    )
    assert client.responses.cancel(endless.id) == client.responses.retrieve(endless.id)
