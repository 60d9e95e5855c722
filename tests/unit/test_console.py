"""Where commands print: texts come out as they are."""

from __future__ import annotations

import pytest

from gptoss_client.console import plain_console


@pytest.mark.parametrize("text", ["fe80:100:1", "[bold]x[/bold]", "word " * 60])
def test_console_when_a_text_looks_like_something_else_then_it_is_printed_as_it_is(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    plain_console().print(text)
    assert capsys.readouterr().out == f"{text}\n"
