"""Markdown on the page at /, in a real Chromium: it becomes elements, none of which does anything."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from gptoss_backend.settings_sources import load_settings
from support.chat_page import ask, final, page_fixtures
from support.fake_model_server import FakeModelServer, answer

SETTINGS = load_settings({"model": "demo"}, environ={})
TABLE = "<table><thead><tr><th>a</th><th>b</th></tr></thead>"
ROW = "<tr><td>x | y</td><td></td></tr>"
browser, url, context, page = page_fixtures()


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


def test_answer_when_its_quotes_never_end_then_the_page_lives(page: Page, server: FakeModelServer) -> None:
    server.scripts = [answer(final(">" * 12000), tokens_a_step=50)]
    ask(page, "Hi")
    expect(page.locator("article.assistant footer")).to_contain_text("tokens")
    page.reload()
    ask(page, "Still there?")
    expect(page.locator("article.assistant .body").last).to_have_text("Hello!")


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
