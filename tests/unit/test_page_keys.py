"""The page at /, in a real Chromium, where the adapter asks for keys."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, expect

from gptoss_adapter.app import create_app
from gptoss_backend.keys import digest_of
from gptoss_backend.settings_sources import load_settings
from support.chat_page import ask, page_fixtures
from support.fake_model_server import FakeModelServer
from support.live_app import live

browser, *_ = page_fixtures()


def test_page_when_keys_are_asked_for_then_it_asks_for_one_and_works(browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"visitor {digest_of(b'sesame').hex()}\n", encoding="utf-8")
    settings = load_settings({"model": "demo", "adapter": {"keys_path": str(keys)}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        page = browser.new_page()
        page.goto(url)
        page.locator("#key").fill("sesame")
        page.keyboard.press("Enter")
        expect(page.locator("#model option")).not_to_have_count(0)
        ask(page, "Hi")
        expect(page.locator("article.assistant .body")).to_have_text("Hello!")
        page.close()


def test_key_when_it_is_not_given_at_first_then_a_question_asks_again_and_only_a_key_is_taken(
    browser: Browser, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"visitor {digest_of(b'sesame').hex()}\n", encoding="utf-8")
    settings = load_settings({"model": "demo", "adapter": {"keys_path": str(keys)}}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#messages .fault")).to_be_visible()
        ask(page, "Hi")
        expect(page.locator("#key-dialog")).to_be_visible()
        page.locator("#key").fill("séßame\u2026")
        page.keyboard.press("Enter")
        expect(page.locator("#key-reason")).to_contain_text("That is no key")
        page.locator("#key").fill("sesame")
        page.keyboard.press("Enter")
        expect(page.locator("article.assistant .body")).to_have_text("Hello!")
        expect(page.locator("#model option")).not_to_have_count(0)
        page.close()


def test_key_when_refused_to_the_live_view_then_it_is_not_asked_for_again(browser: Browser, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"visitor {digest_of(b'sesame').hex()}\n", encoding="utf-8")
    closed = {"keys_path": str(keys), "open_metrics": False}
    settings = load_settings({"model": "demo", "adapter": closed}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url:
        page = browser.new_page()
        page.goto(f"{url}/#live")
        expect(page.locator("#key-dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#live-fault")).to_be_visible()
        page.wait_for_timeout(2500)
        expect(page.locator("#key-dialog")).to_be_hidden()
        page.close()
