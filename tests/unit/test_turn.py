"""One turn without HTTP: however its tokens are read, they say the same."""

from __future__ import annotations

import asyncio
import re
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gptoss_adapter.chunks import AnswerStyle, ChoiceBuilder
from gptoss_adapter.content import ScoredContent
from gptoss_adapter.context import RequestRecord
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError
from gptoss_adapter.inference import GenerationStep
from gptoss_adapter.mcp_servers.servers import McpServers
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.schemas.answers import Choice
from gptoss_adapter.serving import ServedModels, Services, utc_today
from gptoss_adapter.stats_triton import TritonPage
from gptoss_adapter.turn import ChatPrompt, Turn
from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    FinishReason,
    FunctionTool,
    Role,
    SamplingParams,
    ToolChoice,
)
from gptoss_backend.contract import ToolChoiceMode as Mode
from gptoss_backend.harmony.vocabulary import encoding
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import (
    CACHED_TOKENS,
    FOREVER,
    PROMPT_TOKENS,
    STARTED,
    FakeModelServer,
    Scene,
    answer,
    finished,
    scored,
    token_ids,
)

SETTINGS = load_settings({"model": "demo"}, environ={})
MODELS = ServedModels(SETTINGS)
PAGE = TritonPage("http://127.0.0.1:9/metrics")
NO_MCP = McpServers(SETTINGS.adapter, Metrics())
SPECIAL = [200002, 200003, 200005, 200006, 200007, 200008, 200012]
WORDS = encoding().encode("analysis final commentary to=functions.f assistant ab é 🧑‍🚀 \n\n {} x")
TOKENS = st.lists(st.sampled_from(SPECIAL + WORDS), max_size=60)
CUTS = st.lists(st.integers(0, 60), max_size=5)


def chat(mode: Mode = Mode.AUTO, *tools: FunctionTool) -> ChatRequest:
    return ChatRequest(messages=(ChatMessage(Role.USER, "Hi"),), tools=tools, tool_choice=ToolChoice(mode))


def script(ids: list[int], cuts: list[int]) -> list[Scene]:
    places = sorted({0, *(at for at in cuts if at < len(ids)), len(ids)})
    steps = [GenerationStep(ids[start:end]) for start, end in pairwise(places)]
    return [STARTED, *steps, GenerationStep([], finished(FinishReason.LENGTH, len(ids)))]


def play(
    scenes: list[Scene],
    *,
    stop: list[str] | None = None,
    logprobs: int | None = None,
    min_tokens: int = 0,
    mode: Mode = Mode.AUTO,
    tools: tuple[FunctionTool, ...] = (),
) -> tuple[Choice, Turn, list[ScoredContent]]:
    """Run a turn to its end; returns what it said and the scored pieces of its content."""

    async def run() -> tuple[Choice, Turn, list[ScoredContent]]:
        server = FakeModelServer(scenes)
        services = Services(SETTINGS, MODELS, server, Metrics(), PAGE, utc_today, Drain(), NO_MCP)
        sampling = SamplingParams(logprobs=logprobs, min_tokens=min_tokens)
        turn = Turn(services, MODELS.default, chat(mode, *tools), sampling, RequestRecord("req"), stop=stop or [])
        builder, pieces = ChoiceBuilder(AnswerStyle()), []
        async with turn:
            await turn.start()
            async for deltas in turn:
                builder.add(deltas)
                pieces += [delta for delta in deltas if isinstance(delta, ScoredContent)]
        return builder.choice(turn), turn, pieces

    return asyncio.run(run())


def said(choice: Choice) -> object:
    message = choice.message
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls or []]
    return message.content, message.reasoning, calls, choice.finish_reason


@given(ids=TOKENS, cuts=CUTS, mode=st.sampled_from([Mode.AUTO, Mode.NONE]))
def test_turn_when_read_token_by_token_then_it_says_what_it_says_read_at_once(
    ids: list[int], cuts: list[int], mode: Mode
) -> None:
    at_once, turn, _ = play(script(ids, []), mode=mode)
    watched, same_turn, _ = play(script(ids, cuts), stop=["never said"], mode=mode)
    assert said(watched) == said(at_once)
    assert same_turn.usage == turn.usage


@given(ids=TOKENS, cuts=CUTS)
@example(ids=[112927, 200008, 100], cuts=[])  # half a character, a stray <|message|>, the other half
def test_turn_when_scored_then_tokens_are_told_once_in_order_with_their_text(ids: list[int], cuts: list[int]) -> None:
    choice, _, pieces = play(scored(script(ids, cuts)), logprobs=1)
    assert said(choice) == said(play(script(ids, []))[0])
    tokens = [token for piece in pieces for token in piece.tokens]
    assert all(before.start <= after.start for before, after in pairwise(tokens))
    told = iter(ids)  # a subsequence of what was generated
    assert all(token.scored.token_id in told for token in tokens)
    text = iter(letters(encoding().decode([token.scored.token_id for token in tokens])))
    # of a header that breaks off, words that were taken for its own may be told too
    assert all(letter in text for letter in letters(choice.message.content or ""))


@given(ids=TOKENS, cuts=CUTS, stop=st.lists(st.sampled_from(["b", "{}", "al co", "🚀", "x", "\n"]), min_size=1))
def test_turn_when_stopped_then_the_cut_does_not_depend_on_the_pieces(
    ids: list[int], cuts: list[int], stop: list[str]
) -> None:
    by_pieces, turn, _ = play(script(ids, cuts), stop=stop)
    by_tokens, same_turn, _ = play(script(ids, list(range(60))), stop=stop)
    assert said(by_pieces) == said(by_tokens)
    assert turn.usage == same_turn.usage


@pytest.mark.parametrize(
    ("min_tokens", "content"), [(0, "one"), (4, "one"), (5, "one end two"), (7, "one end two end three")]
)
def test_turn_when_tokens_must_come_first_then_no_stop_string_ends_it_before_more_of_them(
    min_tokens: int, content: str
) -> None:
    # three tokens of a header come before the text, a token a word
    scenes = answer("<|channel|>final<|message|>one end two end three end<|return|>")
    for each in (scenes, script(token_ids("<|channel|>final<|message|>one end two end three end"), [])):
        assert play(each, stop=[" end"], min_tokens=min_tokens)[0].message.content == content


def test_turn_when_two_messages_are_kept_apart_then_what_does_it_is_no_stop_string() -> None:
    preamble = "<|channel|>commentary<|message|>Let me see.\n<|end|>"
    final = "<|start|>assistant<|channel|>final<|message|>One.\n\nTwo.<|return|>"
    assert play(answer(preamble + final), stop=["\n\n"])[0].message.content == "Let me see.\n\n\nOne."
    assert play(answer(preamble + final), stop=["\n\nOne"])[0].message.content == "Let me see.\n\n\nOne.\n\nTwo."


def letters(text: str) -> str:
    """Leave out what is not of a token (the empty line between messages), stripped from a header, or no character."""
    return "".join(char for char in text if char not in " \n\ufffd")


def test_turn_when_tools_are_barred_then_a_call_is_reasoning_also_where_content_is_scored() -> None:
    call = "<|channel|>commentary to=functions.f <|message|>{}<|call|>"
    choice, _, pieces = play(scored(answer(call)), logprobs=0, mode=Mode.NONE)
    assert said(choice) == ("", "{}\n\n{}", [], "stop")  # a second time after it was told that there is no such tool
    assert pieces == []


PYTHON = (
    "<|channel|>analysis<|message|>Hm.<|end|>"
    "<|start|>assistant<|channel|>commentary to=python code<|message|>2+2<|call|>"
)
FOUR = "<|channel|>final<|message|>4<|return|>"
REFUSAL = (
    "<|start|>python to=assistant<|channel|>commentary<|message|>There is no tool python here: answer without it."
    "<|end|><|start|>assistant"
)


def converse(
    scripts: list[list[Scene]],
    *,
    goes_on: bool = True,
    **sampling: Any,  # noqa: ANN401
) -> tuple[Choice, Turn, FakeModelServer, Metrics]:
    """Run a turn whose generations play `scripts`, one after another."""

    async def run() -> tuple[Choice, Turn, FakeModelServer, Metrics]:
        server, metrics = FakeModelServer(scripts=list(scripts)), Metrics()
        services = Services(SETTINGS, MODELS, server, metrics, PAGE, utc_today, Drain(), NO_MCP)
        params = SamplingParams(**sampling)
        turn = Turn(services, MODELS.default, chat(), params, RequestRecord("req"), goes_on=goes_on)
        builder = ChoiceBuilder(AnswerStyle())
        async with turn:
            await turn.start()
            async for deltas in turn:
                builder.add(deltas)
        return builder.choice(turn), turn, server, metrics

    return asyncio.run(run())


def test_turn_when_a_tool_is_called_that_nobody_offered_then_the_model_is_told_and_goes_on() -> None:
    scripts = [answer(PYTHON), answer(FOUR)]
    choice, turn, server, metrics = converse(scripts, max_tokens=100, min_tokens=30, prompt_logprobs=0)
    assert said(choice) == ("4", "Hm.\n\n2+2", [], "stop")
    called, answered = len(token_ids(PYTHON)), len(token_ids(FOUR))
    assert server.prompts[1] == [*server.prompts[0], *token_ids(PYTHON), *token_ids(REFUSAL)]
    assert [sampling.max_tokens for sampling in server.samplings] == [100, 100 - called]
    assert [sampling.min_tokens for sampling in server.samplings] == [30, 30 - called]
    assert [sampling.prompt_logprobs for sampling in server.samplings] == [0, None]
    assert turn.usage.completion_tokens == called + answered
    assert turn.usage.prompt_tokens == 2 * PROMPT_TOKENS
    assert turn.usage.prompt_tokens_details.cached_tokens == 2 * CACHED_TOKENS
    assert all(stream.ended for stream in server.streams)
    page = metrics.exposition().decode()
    assert re.findall(r"^gptoss_num_requests_running\{.*\} (\S+)$", page, re.MULTILINE) == ["0.0"]
    assert re.findall(r"^gptoss_prompt_tokens_total\{.*\} (\S+)$", page, re.MULTILINE) == [f"{2 * PROMPT_TOKENS:.1f}"]


def test_turn_when_it_calls_what_nobody_offered_twice_then_it_ends_there() -> None:
    choice, turn, server, _ = converse([answer(PYTHON), answer(PYTHON)])
    assert said(choice) == ("", "Hm.\n\n2+2\n\nHm.\n\n2+2", [], "stop")
    assert turn.usage.completion_tokens == 2 * len(token_ids(PYTHON))
    assert len(server.prompts) == 2


@pytest.mark.parametrize(
    ("sampling", "goes_on"),
    [({"max_tokens": len(token_ids(PYTHON))}, True), ({"stop_token_ids": (200012,)}, True), ({}, False)],
    ids=["no tokens left", "it is the end that was asked for", "as asked"],
)
def test_turn_when_it_may_not_go_on_then_it_ends_with_the_call(sampling: dict[str, Any], goes_on: bool) -> None:
    choice, _, server, _ = converse([answer(PYTHON)], goes_on=goes_on, **sampling)
    assert said(choice) == ("", "Hm.\n\n2+2", [], "stop")
    assert len(server.prompts) == 1


def test_turn_when_there_is_no_room_to_go_on_then_it_ends_with_the_call() -> None:
    refused: list[Scene] = [InvalidRequestError("too long", param="messages", code="context_length_exceeded")]
    choice, turn, server, _ = converse([answer(PYTHON), refused])
    assert said(choice) == ("", "Hm.\n\n2+2", [], "stop")
    assert turn.usage.completion_tokens == len(token_ids(PYTHON))
    assert len(server.prompts) == 2


def test_turn_when_it_breaks_while_it_goes_on_then_the_error_is_told() -> None:
    with pytest.raises(ServiceUnavailableError):
        converse([answer(PYTHON), [STARTED, ServiceUnavailableError("gone")]])


def test_turn_when_it_ends_inside_a_call_then_it_has_stopped_and_asks_for_none() -> None:
    called = '<|channel|>commentary to=functions.f<|message|>{"city": "Oslo"'
    cut, turn, _ = play(answer(called), tools=(FunctionTool("f"),))
    assert (cut.finish_reason, turn.has_cut_call) == ("stop", True)
    whole, turn, _ = play(answer(called + "}<|call|>"), tools=(FunctionTool("f"),))
    assert (whole.finish_reason, turn.has_cut_call) == ("tool_calls", False)


@pytest.mark.parametrize("error", [None, ValueError("broken")])
def test_turn_when_left_early_then_it_is_cancelled_and_counted_so(error: Exception | None) -> None:
    async def run() -> tuple[FakeModelServer, Metrics]:
        server, metrics = FakeModelServer([STARTED, GenerationStep([5]), FOREVER]), Metrics()
        services = Services(SETTINGS, MODELS, server, metrics, PAGE, utc_today, Drain(), NO_MCP)
        with nullcontext() if error is None else pytest.raises(type(error)):
            async with Turn(services, MODELS.default, chat(), SamplingParams(), RequestRecord("req")) as turn:
                await turn.start()
                await anext(turn)
                if error is not None:
                    raise error
        return server, metrics

    server, metrics = asyncio.run(run())
    outcome = "error" if error else "cancelled"
    assert server.streams[0].abandoned
    assert f'outcome="{outcome}",profile="balanced"}} 1.0' in metrics.exposition().decode()


def test_prompt_when_one_of_its_turns_is_given_up_then_the_others_have_it() -> None:
    async def run() -> None:
        server = FakeModelServer(preprocess_takes_s=0.05)
        prompt = ChatPrompt(server, chat(), "req")
        left, *others = [asyncio.create_task(prompt.ids()) for _ in range(3)]
        await asyncio.sleep(0)
        left.cancel()
        assert len({one.raw for one in await asyncio.gather(*others)}) == 1
        assert len(server.chats) == 1

    asyncio.run(run())
