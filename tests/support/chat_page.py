"""The page at /, in a real Chromium: fixtures of it, what is typed into it, what the model answers.

A test module says `browser, url, context, page = page_fixtures()`, and those four are fixtures then. The adapter is
what the module's SETTINGS say.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from support.browser import browser as chromium
from support.fake_model_server import FOREVER, FakeModelServer, Pause, Scene, answer


def page_fixtures() -> tuple[object, object, object, object]:
    """Return fixtures of a Chromium and of the page's URL, for the whole module, of a visit, and of the page in it."""

    @pytest.fixture(scope="module")
    def browser() -> Iterator[Browser]:
        with chromium() as started:
            yield started

    @pytest.fixture(scope="module")
    def url(url_and_server: tuple[str, FakeModelServer]) -> str:
        return url_and_server[0]

    @pytest.fixture
    def context(browser: Browser, server: FakeModelServer) -> Iterator[BrowserContext]:
        context = browser.new_context()
        context.set_default_timeout(15_000)
        yield context
        context.close()

    @pytest.fixture
    def page(context: BrowserContext, url: str) -> Page:
        return open_tab(context, url)

    return browser, url, context, page


def open_tab(context: BrowserContext, url: str) -> Page:
    """Return a new tab of the browser, at the newest conversation."""
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#model option")).not_to_have_count(0)
    return page


def ask(page: Page, text: str) -> None:
    """Type a question and send it, by keyboard."""
    page.locator("#question").fill(text)
    page.keyboard.press("Enter")


def keep_talks(page: Page, *talks: tuple[str, str]) -> None:
    """Let the browser hold talks of one message, given as title and message, when the page is loaded next."""
    kept = [
        {"id": str(number), "title": title, "messages": [{"role": "user", "content": text}]}
        for number, (title, text) in enumerate(talks)
    ]
    page.evaluate("kept => localStorage.setItem('gptoss.talks', JSON.stringify(kept))", kept)
    page.reload()
    expect(page.locator("#talks li")).to_have_count(len(talks))


def final(text: str) -> str:
    """Return an answer of reasoning and `text`, in Harmony."""
    return (
        f"<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>final<|message|>{text}<|return|>"
    )


def slowly(text: str) -> list[Scene]:
    """Return the script of an answer that takes its time."""
    return [part for scene in answer(final(text)) for part in (scene, Pause(0.03))][:-1]


def without_end(text: str) -> list[Scene]:
    """Return the script of an answer that stays away before it is done."""
    return [*answer(final(text))[:-2], FOREVER]
