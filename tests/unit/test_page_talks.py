"""Talks on the page at /, in a real Chromium: kept, gone on with in several tabs, edited, deleted."""

from __future__ import annotations

import re

from playwright.sync_api import BrowserContext, Page, expect

from gptoss_backend.settings_sources import load_settings
from support.chat_page import ask, keep_talks, open_tab, page_fixtures, slowly, without_end
from support.fake_model_server import FakeModelServer

SETTINGS = load_settings({"model": "demo"}, environ={})
browser, url, context, page = page_fixtures()


def test_talk_when_the_page_is_loaded_again_then_it_is_still_there_and_goes_on(
    page: Page, server: FakeModelServer
) -> None:
    ask(page, "First question")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    page.reload()
    expect(page.locator("article.user")).to_contain_text("First question")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    ask(page, "Second question")
    expect(page.locator("article.assistant")).to_have_count(2)
    expect(page.locator("#send")).to_be_enabled()
    assert [message.content for message in server.chats[-1].messages] == ["First question", "Hello!", "Second question"]


def test_page_when_loaded_again_during_an_answer_then_what_came_is_kept(page: Page, server: FakeModelServer) -> None:
    server.scripts = [without_end("Once upon a time")]
    ask(page, "Tell me a story")
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.reload()
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")


def test_talks_when_two_tabs_keep_one_each_then_both_are_kept(page: Page, context: BrowserContext, url: str) -> None:
    other = open_tab(context, url)
    for tab, text in ((page, "in one tab"), (other, "in the other")):
        ask(tab, text)
        expect(tab.locator("article.assistant .body")).to_have_text("Hello!")
    expect(page.locator("#talks li")).to_have_count(2)
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["in the other", "in one tab"])


def test_talk_when_two_tabs_go_on_with_it_in_turn_then_each_takes_over_what_the_other_added(
    page: Page, context: BrowserContext, url: str, server: FakeModelServer
) -> None:
    ask(page, "one")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    other = open_tab(context, url)
    ask(other, "two")
    expect(other.locator("article.assistant footer")).to_have_count(2)
    expect(page.locator("article.assistant .body")).to_have_count(2)
    ask(page, "three")
    expect(page.locator("#send")).to_be_enabled()
    page.reload()
    expect(page.locator("article.user")).to_have_count(3)
    expect(page.locator("article.assistant .body")).to_have_text(["Hello!"] * 3)
    expect(page.locator("#talks li")).to_have_count(1)
    assert [message.content for message in server.chats[-1].messages][::2] == ["one", "two", "three"]


def test_talk_when_two_tabs_go_on_with_it_at_once_then_it_becomes_two_and_nothing_is_lost(
    page: Page, context: BrowserContext, url: str, server: FakeModelServer
) -> None:
    ask(page, "one")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    other = open_tab(context, url)
    server.scripts = [slowly("slow " * 40)]
    ask(page, "in one tab")
    expect(page.locator("article.assistant .body").last).to_contain_text("slow")
    ask(other, "in the other")
    expect(other.locator("article.assistant .body").last).to_have_text("Hello!")
    expect(page.locator("#send")).to_be_enabled()
    expect(page.locator("#talks li")).to_have_count(2)
    expect(page.locator("article.user")).to_have_text(["one", re.compile("in one tab")])
    page.reload()
    shown = []
    for index in (0, 1):
        page.locator("#talks .open").nth(index).click()
        expect(page.locator("#talks li").nth(index)).to_have_attribute("aria-current", "true")
        shown.append(page.locator("#messages").inner_text())
    assert sum("slow slow" in text for text in shown) == 1
    assert any("in one tab" in text for text in shown)
    assert any("in the other" in text for text in shown)


def test_talk_when_renamed_in_another_tab_during_an_answer_then_it_stays_one_and_has_both(
    page: Page, context: BrowserContext, url: str, server: FakeModelServer
) -> None:
    server.scripts = [slowly("slow " * 60)]
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_contain_text("slow")
    other = open_tab(context, url)
    other.once("dialog", lambda dialog: dialog.accept("Better"))
    other.get_by_role("button", name="Rename Hi").click()
    expect(page.locator("#talks .open")).to_have_text(["Better"])
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["Better"])
    expect(page.locator("article.assistant .body")).to_contain_text("slow slow")
    expect(other.locator("article.assistant .body")).to_contain_text("slow slow")


def test_talk_when_opened_by_keyboard_then_the_focus_stays_on_it(page: Page) -> None:
    keep_talks(page, ("First", "Hi"), ("Second", "Ho"))
    page.get_by_role("button", name="Second", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator("article.user")).to_contain_text("Ho")
    expect(page.get_by_role("button", name="Second", exact=True)).to_be_focused()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete First").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#new-talk")).to_be_focused()


def test_talk_when_deleted_and_confirmed_then_it_is_gone(page: Page) -> None:
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    page.get_by_role("button", name="Delete Hi").click()  # playwright answers No where nobody listens
    expect(page.locator("#talks li")).to_have_count(1)
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Hi").click()
    expect(page.locator("#talks li")).to_have_count(0)
    page.reload()
    expect(page.locator(".welcome")).to_be_visible()


def test_talks_when_there_are_many_then_none_is_dropped(page: Page) -> None:
    keep_talks(page, *((f"Talk {number}", "Hi") for number in range(60)))
    page.locator("#new-talk").click()
    ask(page, "One more")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    page.reload()
    expect(page.locator("#talks li")).to_have_count(61)
    expect(page.locator("#no-room")).to_be_hidden()


def test_talks_when_the_browser_has_no_room_then_it_says_so_and_a_deleted_one_makes_some(page: Page) -> None:
    keep_talks(page, ("Short", "Hi"), ("Long", "long " * 2000))
    page.evaluate(
        """() => {
            let filler = "x".repeat(1 << 22);
            for (let part = 0; filler.length; part += 1) {
                try { localStorage.setItem(`filler ${part}`, filler); }
                catch { filler = filler.slice(filler.length / 2 + 1); }
            }
        }"""
    )
    page.locator("#new-talk").click()
    ask(page, "New")
    expect(page.locator("#no-room")).to_contain_text("no room left")
    expect(page.locator("#talks .open")).to_have_text(["New", "Short", "Long"])
    expect(page.locator("#send")).to_be_enabled()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Long").click()
    expect(page.locator("#no-room")).to_be_hidden()
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["New", "Short"])
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")


# --- edits ----------------------------------------------------------------------------------------------------------


def test_edit_when_left_then_the_talk_and_the_draft_are_as_before(page: Page, server: FakeModelServer) -> None:
    ask(page, "First")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.locator("#question").fill("a draft")
    for leave in (lambda: page.keyboard.press("Escape"), lambda: page.locator("#cancel-edit").click()):
        page.get_by_role("button", name="Edit").click()
        expect(page.locator("#question")).to_have_value("First")
        expect(page.locator("#editing")).to_be_visible()
        expect(page.locator("article.assistant .body")).to_have_text("Hello!")
        leave()
        expect(page.locator("#editing")).to_be_hidden()
        expect(page.locator("#question")).to_have_value("a draft")
    page.get_by_role("button", name="Edit").click()
    page.reload()
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    assert len(server.chats) == 1


def test_edit_when_sent_then_it_takes_the_place_of_the_message_and_its_answer(
    page: Page, server: FakeModelServer
) -> None:
    ask(page, "First")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.get_by_role("button", name="Edit").click()
    ask(page, "Better")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    expect(page.locator("article.user")).to_have_count(1)
    expect(page.locator("article.user")).to_contain_text("Better")
    expect(page.locator("#editing")).to_be_hidden()
    assert [message.content for message in server.chats[-1].messages] == ["Better"]


def test_edit_when_another_talk_is_opened_then_what_is_sent_there_leaves_the_first_whole(page: Page) -> None:
    ask(page, "First")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.get_by_role("button", name="Edit").click()
    page.locator("#new-talk").click()
    expect(page.locator("#editing")).to_be_hidden()
    ask(page, "Second")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.locator("#talks .open").last.click()
    expect(page.locator("article.user")).to_contain_text("First")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
