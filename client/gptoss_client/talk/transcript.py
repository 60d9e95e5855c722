"""What a chat leaves behind and what it tells of the server, as text.

Stage: `gptoss chat`, beside the turns.
Owns: the saved file's forms, the lines of /stats.
Does not know: the terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from gptoss_client.reports import Stats
from gptoss_client.talk.conversation import Conversation

_WINDOW: Final = "5m"


def save(conversation: Conversation, path: Path) -> None:
    """Write the conversation to a new file: JSON is the request that would go on with it. Raises OSError."""
    is_json = path.suffix == ".json"
    request = conversation.request()
    text = json.dumps(request, ensure_ascii=False, indent=2) if is_json else _markdown(request["messages"])
    with path.open("x", encoding="utf-8") as file:
        file.write(text + "\n")


def stats_lines(stats: Stats) -> Iterator[str]:
    """Say how the server does, for people."""
    for served in stats.served:
        yield f"{served.model} ({served.profile}): {served.running} running, {served.waiting} waiting"
        if (window := served.windows.get(_WINDOW)) is not None:
            yield (
                f"  last {_WINDOW}: {window.generated_tokens_per_s:.1f} tokens/s, "
                f"first token {_time(window.ttft_s.p50)} (95%: {_time(window.ttft_s.p95)})"
            )
    for target in stats.targets:
        holds = {True: "holds", False: "fails", None: "not measured yet"}[target.holds]
        value = "" if target.value is None else f" ({_with_unit(target.value, target.unit)})"
        yield f"  target {target.target} {target.comparison} {_with_unit(target.limit, target.unit)}: {holds}{value}"


def _markdown(messages: list[dict[str, Any]]) -> str:
    return "\n\n".join(f"**{message['role']}**\n\n{_text(message)}" for message in messages)


def _text(message: dict[str, Any]) -> str:
    calls = (f"`{call['function']['name']} {call['function']['arguments']}`" for call in message.get("tool_calls", ()))
    return "\n\n".join([*([message["content"]] if message.get("content") else []), *calls])


def _with_unit(value: float, unit: str) -> str:
    match unit:
        case "bytes":
            return f"{value / 1e9:.3g} GB"
        case "ratio":
            return f"{100 * value:.3g}%"
        case _:
            return f"{value:.3g} s"


def _time(seconds: float | None) -> str:
    return "not measured" if seconds is None else f"{seconds * 1000:.0f} ms"
