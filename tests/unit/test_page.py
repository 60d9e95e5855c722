"""The page at /, in a real Chromium, before the real adapter with a scripted model server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from gptoss_adapter.app import create_app
from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_backend.contract import CallSyntax
from gptoss_backend.keys import digest_of
from gptoss_backend.settings_sources import load_settings
from support.browser import browser as chromium
from support.fake_model_server import FOREVER, STARTED, FakeModelServer, Pause, Scene, answer
from support.live_app import live, wait_until

SETTINGS = load_settings({"model": "demo"}, environ={})
PHONE = {"width": 390, "height": 760}
TABLE = "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
ROW = "<tr><td>x | y</td><td></td></tr>"


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server() -> FakeModelServer:
    return FakeModelServer()


@pytest.fixture(scope="module")
def url(server: FakeModelServer) -> Iterator[str]:
    with live(create_app(SETTINGS, model_server=server)) as url:
        yield url


@pytest.fixture
def context(browser: Browser, server: FakeModelServer) -> Iterator[BrowserContext]:
    server.forget()
    context = browser.new_context()
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#model option")).not_to_have_count(0)
    return page


def ask(page: Page, text: str) -> None:
    """Type a question and send it, by keyboard."""
    page.locator("#question").fill(text)
    page.keyboard.press("Enter")


def test_question_when_sent_then_the_answer_comes_with_its_reasoning_folded(page: Page) -> None:
    ask(page, "Hi")
    expect(page.locator("article.user")).to_contain_text("Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")
    reasoning = page.locator("details.reasoning")
    expect(reasoning.locator("div")).to_be_hidden()
    reasoning.locator("summary").click()
    expect(reasoning.locator("div")).to_have_text("Easy.")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens/s")


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


def test_answer_when_it_holds_scripts_then_none_runs(page: Page, server: FakeModelServer) -> None:
    attacks = (
        "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 2'> "
        "[press](javascript:window.hacked=3) [data](data:text/html,x) **<b onclick=1>bold</b>** [web](https://example.com)"
    )
    server.script = answer(final(attacks))
    ask(page, "<script>window.hacked = 4</script>")
    body = page.locator("article.assistant .body")
    expect(body).to_contain_text("<script>window.hacked = 1</script>")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    assert body.locator("a").evaluate_all("links => links.map(link => link.href)") == ["https://example.com/"]
    assert page.locator("#messages").locator("script, img, b").count() == 0
    assert page.evaluate("window.hacked") is None


def test_answer_when_it_is_markdown_then_it_is_shown_as_such(page: Page, server: FakeModelServer) -> None:
    text = (
        "# Title\n\n- one\n- **two**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nprint('<b>')\n```\n\n1. x\n2. `y`"
    )
    server.script = answer(final(text))
    ask(page, "Show")
    body = page.locator("article.assistant .body")
    expect(body.locator("ol li code")).to_have_text("y")
    assert body.locator("h1").inner_text() == "Title"
    assert body.locator("ul li strong").inner_text() == "two"
    assert body.locator("td").all_inner_texts() == ["1", "2"]
    assert body.locator("pre code").inner_text() == "print('<b>')"


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


def test_page_when_loaded_again_during_an_answer_then_what_came_is_kept(page: Page, server: FakeModelServer) -> None:
    server.scripts = [without_end("Once upon a time")]
    ask(page, "Tell me a story")
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.reload()
    expect(page.locator("article.assistant .body")).to_contain_text("Once upon")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")


def test_talks_when_two_tabs_keep_one_each_then_both_are_kept(page: Page, context: BrowserContext, url: str) -> None:
    other = context.new_page()
    other.goto(url)
    expect(other.locator("#model option")).not_to_have_count(0)
    for tab, text in ((page, "in one tab"), (other, "in the other")):
        ask(tab, text)
        expect(tab.locator("article.assistant .body")).to_have_text("Hello!")
    expect(page.locator("#talks li")).to_have_count(2)
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["in the other", "in one tab"])


def second_tab(context: BrowserContext, url: str) -> Page:
    """Return another tab of the same browser, at the newest conversation."""
    other = context.new_page()
    other.goto(url)
    expect(other.locator("#model option")).not_to_have_count(0)
    return other


def test_talk_when_two_tabs_go_on_with_it_in_turn_then_each_takes_over_what_the_other_added(
    page: Page, context: BrowserContext, url: str, server: FakeModelServer
) -> None:
    ask(page, "one")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    other = second_tab(context, url)
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
    other = second_tab(context, url)
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
    other = second_tab(context, url)
    other.once("dialog", lambda dialog: dialog.accept("Better"))
    other.get_by_role("button", name="Rename Hi").click()
    expect(page.locator("#talks .open")).to_have_text(["Better"])
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.reload()
    expect(page.locator("#talks .open")).to_have_text(["Better"])
    expect(page.locator("article.assistant .body")).to_contain_text("slow slow")
    expect(other.locator("article.assistant .body")).to_contain_text("slow slow")


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


def test_page_when_the_site_may_keep_nothing_then_it_answers(context: BrowserContext, url: str) -> None:
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
            Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    page = second_tab(context, url)
    ask(page, "Hi")
    expect(page.locator("article.assistant .body")).to_have_text("Hello!")


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


def test_answer_when_its_quotes_never_end_then_the_page_lives(page: Page, server: FakeModelServer) -> None:
    server.scripts = [answer(final(">" * 12000), tokens_a_step=50)]
    ask(page, "Hi")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.reload()
    ask(page, "Still there?")
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")


def test_answer_when_it_failed_then_the_next_request_does_not_hold_it(page: Page, server: FakeModelServer) -> None:
    server.scripts = [[STARTED, ServiceUnavailableError("The model server is restarting.")]]
    ask(page, "First")
    expect(page.locator("article.assistant .fault")).to_be_visible()
    ask(page, "Second")
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")
    assert [message.content for message in server.chats[-1].messages] == ["First", "Second"]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("1. a\n\n   ```sh\n   x\n   ```\n\n2. b", "<ol><li>a<pre>x</pre></li><li>b</li></ol>"),
        ("- a\n\n- b", "<ul><li>a</li><li>b</li></ul>"),
        ("- a\n    - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"),
        ("See https://e.com/a.", "<p>See <a>https://e.com/a</a>.</p>"),
        ("[x](https://e.com/a_(b))", "<p><a>x</a></p>"),
        ('[x](https://e.com "title")', "<p><a>x</a></p>"),
        ("2 * 3 * 4", "<p>2 * 3 * 4</p>"),
        ("a | b\n--|:-:\n1 | 2\n\nend", f"{TABLE}<tbody><tr><td>1</td><td>2</td></tr></tbody></table><p>end</p>"),
        ("so:\na | b |\n---|---|", f"<p>so:</p>{TABLE}<tbody></tbody></table>"),
        ("| a | b |\n|---|---|\n| x \\| y | |\n- c | d", f"{TABLE}<tbody>{ROW}</tbody></table><ul><li>c | d</li></ul>"),
        ("a | b\n---", "<p>a | b</p><hr>"),
        ("a | b\n--|--|--", "<p>a | b\n--|--|--</p>"),
    ],
)
def test_markdown_when_drawn_then_it_has_these_elements(page: Page, text: str, html: str) -> None:
    drawn = page.evaluate(
        """async (text) => {
            const { markdown } = await import("/page/markdown.js");
            const box = document.createElement("div");
            box.append(...markdown(text));
            box.querySelectorAll("button").forEach((one) => one.remove());
            return box.innerHTML;
        }""",
        text,
    )
    bare = re.sub(r"</?(?:div|code)[^>]*>", "", drawn)
    assert re.sub(r"<(\w+) [^>]*>", r"<\1>", bare) == html


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


def keep_talks(page: Page, *talks: tuple[str, str]) -> None:
    """Let the browser hold talks of one message, given as title and message, when the page is loaded next."""
    kept = [
        {"id": str(number), "title": title, "messages": [{"role": "user", "content": text}]}
        for number, (title, text) in enumerate(talks)
    ]
    page.evaluate("kept => localStorage.setItem('gptoss.talks', JSON.stringify(kept))", kept)
    page.reload()
    expect(page.locator("#talks li")).to_have_count(len(talks))


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
