"""Answers on the page at /, in a real Chromium: how they come, fail, are stopped and shown."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_backend.contract import CallSyntax
from gptoss_backend.settings_sources import load_settings
from support.chat_page import ask, final, keep_talks, page_fixtures, slowly, without_end
from support.fake_model_server import FOREVER, STARTED, FakeModelServer, answer
from support.live_app import wait_until

SETTINGS = load_settings({"model": "demo"}, environ={})
browser, url, context, page = page_fixtures()


def test_question_when_sent_then_the_answer_comes_with_its_reasoning_folded(page: Page) -> None:
    ask(page, "Hi")
    expect(page.locator("article.user")).to_contain_text("Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    reasoning = page.locator("details.reasoning")
    expect(reasoning.locator("div")).to_be_hidden()
    reasoning.locator("summary").click()
    expect(reasoning.locator("div")).to_have_text("Easy.")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens/s")


def test_stop_when_escape_is_pressed_then_what_came_stays_and_the_engine_is_free(
    page: Page, server: FakeModelServer
) -> None:
    server.script = [*answer(final("Once upon a time"))[:-2], FOREVER]
    ask(page, "Tell me a story")
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.keyboard.press("Escape")
    expect(page.locator("article.assistant footer")).to_contain_text("stopped")
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    wait_until(lambda: server.streams[0].abandoned)
    expect(page.locator("#send")).to_be_enabled()


def test_error_when_the_server_fails_then_it_is_shown_and_retry_answers(page: Page, server: FakeModelServer) -> None:
    server.scripts = [[STARTED, ServiceUnavailableError("The model server is restarting.")]]
    ask(page, "Hi")
    expect(page.locator("article.assistant .fault")).to_contain_text("The model server is restarting.")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    expect(page.locator(".fault")).to_have_count(0)


def test_answer_when_it_failed_then_the_next_request_does_not_hold_it(page: Page, server: FakeModelServer) -> None:
    server.scripts = [[STARTED, ServiceUnavailableError("The model server is restarting.")]]
    ask(page, "First")
    expect(page.locator("article.assistant .fault")).to_be_visible()
    ask(page, "Second")
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")
    assert [message.content for message in server.chats[-1].messages] == ["First", "Second"]


def test_answer_when_left_for_a_new_talk_then_that_one_can_be_sent(page: Page, server: FakeModelServer) -> None:
    server.scripts = [without_end("Once upon a time")]
    ask(page, "Tell me a story")
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.locator("#new-talk").click()
    expect(page.locator("#stop")).to_be_hidden()
    page.locator("#question").fill("Hi")
    page.locator("#send").click()
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    page.locator("#talks .open").last.click()
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")


def test_answer_when_another_talk_is_deleted_or_its_own_pressed_then_it_streams_on(
    page: Page, server: FakeModelServer
) -> None:
    keep_talks(page, ("First", "Hi"), ("Second", "Ho"))
    page.get_by_role("button", name="First", exact=True).click()
    server.scripts = [slowly("word " * 60)]
    ask(page, "Tell me")
    expect(page.locator("article.assistant .body")).to_contain_text("word")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Second").click()
    expect(page.locator("#talks li")).to_have_count(1)
    expect(page.locator("article.assistant .body")).to_contain_text("word")
    page.get_by_role("button", name="First", exact=True).click()
    expect(page.locator("#stop")).to_be_visible()
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")


def test_reasoning_when_pressed_while_the_answer_streams_then_it_opens(page: Page, server: FakeModelServer) -> None:
    server.scripts = [slowly("word " * 60)]
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_contain_text("word")
    place = page.locator("details.reasoning summary").bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + 20, place["y"] + 8)
    page.mouse.down()
    page.wait_for_timeout(150)  # as long as a finger presses; the answer grows meanwhile
    page.mouse.up()
    expect(page.locator("details.reasoning div")).to_be_visible()
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    expect(page.locator("details.reasoning div")).to_be_visible()


def test_reader_when_the_answer_ends_then_neither_place_nor_focus_is_taken(page: Page, server: FakeModelServer) -> None:
    server.scripts = [answer(final("line\n\n" * 80)), slowly("word " * 30)]
    ask(page, "First")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.locator("#open-settings").click()
    ask(page, "Second")
    expect(page.locator("article.assistant .body").last).to_contain_text("word")
    page.locator("#instructions").focus()
    page.locator("#messages").evaluate("box => (box.scrollTop = 40)")
    expect(page.locator("#send")).to_be_enabled()
    assert page.locator("#messages").evaluate("box => box.scrollTop") == 40
    expect(page.locator("#instructions")).to_be_focused()


def test_screen_reader_when_an_answer_ends_then_it_hears_that_one_once(page: Page, server: FakeModelServer) -> None:
    fault = ServiceUnavailableError("The model server is restarting.")
    server.scripts = [answer(final("One.")), answer(final("Two:\n\n```\nx = 2\n```")), [STARTED, fault]]
    announcer = page.get_by_role("status").and_(page.locator("#announcer"))
    for question, words in (("First", "One."), ("Second", "Two: x = 2"), ("Third", "The model server is restarting.")):
        ask(page, question)
        expect(announcer).to_have_text(words)
    # what is drawn anew must not be live itself
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    expect(page.get_by_role("log").locator("[role=alert], [role=status], [aria-live]")).to_have_count(0)


def test_tool_when_called_then_the_call_is_shown_and_its_result_goes_back(page: Page, server: FakeModelServer) -> None:
    tools = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}]
    thought = "<|channel|>analysis<|message|>Look it up.<|end|><|start|>assistant"
    call = '<|channel|>commentary to=functions.tide<|constrain|>json<|message|>{"harbour":"Husum"}<|call|>'
    server.scripts = [answer(thought + call)]
    page.locator("#open-settings").click()
    page.locator("#tools").fill(json.dumps(tools))
    ask(page, "When is high tide?")
    shown = page.locator(".call")
    expect(shown.locator("strong")).to_have_text("tide")
    expect(shown.locator("pre")).to_contain_text('"harbour": "Husum"')
    shown.locator("textarea").fill("At noon")
    page.get_by_role("button", name="Give result").click()
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")
    said, told = server.chats[-1].messages[-2:]
    assert (said.reasoning, told.content) == ("Look it up.", "At noon")


def test_custom_tool_when_called_then_its_input_is_shown_as_it_is_and_goes_back(
    page: Page, server: FakeModelServer
) -> None:
    server.scripts = [
        answer('<|channel|>commentary to=functions.note <|constrain|>json<|message|>{"input":"{\\"a\\":1}"}<|call|>')
    ]
    page.locator("#open-settings").click()
    page.locator("#tools").fill(json.dumps([{"type": "custom", "custom": {"name": "note"}}]))
    ask(page, "Note it.")
    shown = page.locator(".call")
    expect(shown.locator("strong")).to_have_text("note")
    expect(shown.locator("pre")).to_have_text('{"a":1}')
    shown.locator("textarea").fill("Noted")
    page.get_by_role("button", name="Give result").click()
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")
    called, told = server.chats[-1].messages[-2:]
    assert (called.tool_calls[0].arguments, called.tool_calls[0].syntax) == ('{"a":1}', CallSyntax.QUOTED)
    assert told.content == "Noted"
