"""The page at /, in a real Chromium, before the real adapter with a scripted model server."""

from __future__ import annotations

import re

import httpx
from playwright.sync_api import BrowserContext, Page, expect

from gptoss_adapter.app import create_app
from gptoss_backend.settings_sources import load_settings
from support.chat_page import ask, open_tab, page_fixtures
from support.fake_model_server import FakeModelServer
from support.live_app import live

SETTINGS = load_settings({"model": "demo"}, environ={})
PHONE = {"width": 390, "height": 760}
browser, url, context, page = page_fixtures()


def test_choices_when_made_then_the_request_carries_them(page: Page, server: FakeModelServer) -> None:
    page.locator("#effort").select_option("high")
    page.locator("#open-settings").click()
    page.locator("#instructions").fill("Be brief.")
    page.locator("#max-tokens").fill("77")
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    [chat] = server.chats
    assert (chat.reasoning_effort, chat.messages[0].content) == ("high", "Be brief.")
    assert server.samplings[0].max_tokens == 77


def test_page_when_used_by_keyboard_alone_then_a_new_talk_is_begun(page: Page) -> None:
    ask(page, "Hi")
    expect(page.locator("#talks li")).to_have_count(1)
    expect(page.locator("#send")).to_be_enabled()
    page.locator("#new-talk").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".welcome")).to_be_visible()
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    assert page.locator("#question").input_value() == "one\ntwo"


def test_page_when_the_site_may_keep_nothing_then_it_answers(context: BrowserContext, url: str) -> None:
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    page = open_tab(context, url)
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")


def test_live_when_a_chat_was_answered_then_its_figures_are_there(page: Page) -> None:
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    page.locator("#to-live").click()
    expect(page.locator("#targets .tile")).to_have_count(5)
    expect(page.locator("#targets .tile").first).to_contain_text("held")
    expect(page.locator("#charts svg")).to_have_count(6)
    expect(page.locator("#latencies td").first).to_have_text("gpt-oss-demo")


def test_page_when_on_a_phone_then_nothing_is_wider_than_it(context: BrowserContext, url: str) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    for view in ("#chat", "#live"):
        page.goto(f"{url}/{view}")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_live_when_on_a_phone_then_two_tiles_stand_side_by_side_and_hold_their_words(
    context: BrowserContext, url: str
) -> None:
    page = context.new_page()
    page.set_viewport_size({"width": PHONE["width"], "height": PHONE["height"]})
    page.goto(f"{url}/#live")
    for tiles, number in ((page.locator("#targets .tile"), 5), (page.locator("#charts .tile"), 6)):
        expect(tiles).to_have_count(number)
        tops = tiles.evaluate_all("tiles => tiles.map(tile => tile.getBoundingClientRect().top)")
        assert tops[0] == tops[1] < tops[2]
        assert tiles.evaluate_all("tiles => tiles.every(tile => tile.scrollWidth <= tile.clientWidth)")


def test_file_when_the_browser_has_it_then_it_is_not_sent_again(url: str) -> None:
    first = httpx.get(f"{url}/")
    again = httpx.get(f"{url}/", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "script-src 'self'" in first.headers["content-security-policy"]
    named = re.findall(r'(?:src|href)="(/page/[^"]+)"', first.text)
    assert [httpx.get(url + path).status_code for path in named] == [200, 200]
    assert httpx.get(f"{url}/page/../app.py").status_code == 404


def test_page_when_switched_off_then_404() -> None:
    settings = load_settings({"model": "demo", "adapter": {"page": False}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        assert httpx.get(f"{url}/").status_code == 404
