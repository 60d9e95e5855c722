"""Custom tools below the API: what the model is told, what it may write, what is read of it, what it sees again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import (
    CallSyntax,
    ChatMessage,
    ChatRequest,
    CustomTool,
    FunctionTool,
    OutputStructure,
    Role,
    TextForm,
    TextFormKind,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.custom_tools import QuotedInput, written
from gptoss_backend.harmony.deltas import ToolCallDelta
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import CALL, END
from gptoss_backend.structure import checking
from gptoss_backend.structure.answer import AnswerMask
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.schemas import StructureError
from support.answer_masks import allowed, takes, tokens

PATCH = r"""start: begin_patch hunk+ end_patch
begin_patch: "*** Begin Patch" LF
end_patch: "*** End Patch" LF?

hunk: add_hunk | delete_hunk | update_hunk
add_hunk: "*** Add File: " filename LF add_line+
delete_hunk: "*** Delete File: " filename LF
update_hunk: "*** Update File: " filename LF change_move? change?

filename: /(.+)/
add_line: "+" /(.*)/ LF -> line

change_move: "*** Move to: " filename LF
change: (change_context | change_line)+ eof_line?
change_context: ("@@" | "@@ " /(.+)/) LF
change_line: ("+" | "-" | " ") /(.*)/ LF
eof_line: "*** End of File" LF

%import common.LF
"""


def held(kind: TextFormKind, text: str) -> TextForm:
    return TextForm(kind, (text,), "tools[1].custom.format.grammar.definition")


CODE = CustomTool("run_code", "Run code.")
SUM = CustomTool("sum", "", held(TextFormKind.REGEX, r"\d+( \+ \d+)*"))
NOW = FunctionTool("now")
TOOLS = OutputStructure(None, (CODE, SUM, NOW))

TO_CODE = "<|channel|>commentary to=functions.run_code <|constrain|>json<|message|>"
TO_SUM = "<|channel|>commentary to=functions.sum code<|message|>"


def deltas_of(text: str, *, size: int | None = None) -> list[ToolCallDelta]:
    """Return the deltas of an answer that only calls; size: tokens that come at once, None: all."""
    splitter, ids = ChannelSplitter((CODE, SUM, NOW)), tokens(text)
    size = size or len(ids)
    deltas = [delta for at in range(0, len(ids), size) for delta in splitter.push(ids[at : at + size])]
    deltas += splitter.finish()
    assert all(isinstance(delta, ToolCallDelta) for delta in deltas)
    return [delta for delta in deltas if isinstance(delta, ToolCallDelta)]


def call_in(text: str, *, size: int | None = None) -> tuple[str, str, CallSyntax]:
    """Return the one call of an answer: name, input, syntax."""
    deltas = deltas_of(text, size=size)
    assert {delta.index for delta in deltas} == {0}
    [name] = [delta.name for delta in deltas if delta.name]
    [syntax] = {delta.syntax for delta in deltas}
    return name, "".join(delta.arguments for delta in deltas), syntax


# --- any text -------------------------------------------------------------------------------------------------------


@given(st.text(), st.data())
def test_quoted_input_when_it_is_cut_anywhere_then_the_text_is_read_whole_and_in_no_halves(
    text: str, data: st.DataObject
) -> None:
    quoted, reader, read = written(ToolCall("a", "f", text, CallSyntax.QUOTED)), QuotedInput(), ""
    assert json.loads(quoted) == {"input": text}
    while quoted:
        size = data.draw(st.integers(min_value=1, max_value=len(quoted)))
        read += reader.push(quoted[:size])
        assert text.startswith(read)
        quoted = quoted[size:]
    assert read == text


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_quoted_input_when_it_is_any_text_then_the_grammar_takes_what_the_model_is_shown_of_it(text: str) -> None:
    assert takes(TOOLS, f"{TO_CODE}{written(ToolCall('a', 'run_code', text, CallSyntax.QUOTED))}<|call|>")


@pytest.mark.parametrize(
    "quoted",
    [
        '{"input": "',
        '{ "input"',
        '{"code"',
        '{"input":"\\u00e9',
        '{"input":"\\/',
        '{"input":"\\u000a',
        '{"input":"a",',
        '{"input":"a\n',
    ],
)
def test_quoted_input_when_it_is_written_another_way_then_it_cannot_come(quoted: str) -> None:
    assert not takes(TOOLS, TO_CODE + quoted)


@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_call_when_its_input_is_quoted_then_the_client_gets_the_text(size: int | None) -> None:
    text = 'print("é🙂")\n\t# \\ and \x07 and \x7f'
    quoted = written(ToolCall("a", "run_code", text, CallSyntax.QUOTED))
    assert call_in(f"{TO_CODE}{quoted}<|call|>", size=size) == ("run_code", text, CallSyntax.QUOTED)


def test_call_when_its_input_is_quoted_then_it_streams_as_it_is_written() -> None:
    told = [delta.arguments for delta in deltas_of(TO_CODE + '{"input":"one two three"}<|call|>', size=1)]
    assert [text for text in told if text] == ["one", " two", " three"]


@pytest.mark.parametrize(
    ("begun", "told"),
    [
        ("", ""),
        ('{"inp', ""),
        ('{"input":"', ""),
        ('{"input":"a\\', "a"),
        ('{"input":"a\\u00', "a"),
        ('{"input":"a\\n', "a\n"),
        ('{"input":"a"', "a"),
    ],
)
def test_call_when_its_quoted_input_is_cut_then_what_was_whole_is_told(begun: str, told: str) -> None:
    for size in (1, None):
        assert call_in(TO_CODE + begun, size=size) == ("run_code", told, CallSyntax.QUOTED)


@pytest.mark.parametrize("text", ["print(1)", '{"code":"1"}', ' {"input":"1"}', '{"input":7}'])
def test_call_when_its_input_is_not_quoted_as_it_has_to_be_then_it_is_told_as_it_stands(text: str) -> None:
    for size in (1, None):
        assert call_in(f"{TO_CODE}{text}<|call|>", size=size)[1] == text
    assert call_in(TO_CODE + '{"input":"a\\q"}<|call|>')[1] == 'a\\q"}'


def test_call_when_it_has_no_input_then_that_is_empty_and_no_json() -> None:
    assert call_in(f"{TO_CODE}<|call|>") == ("run_code", "", CallSyntax.QUOTED)
    assert call_in(f"{TO_SUM}<|call|>") == ("sum", "", CallSyntax.PLAIN)
    assert deltas_of(TO_SUM.removesuffix("<|message|>")) == []


# --- a text of some form --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        TO_SUM,
        "<|channel|>analysis to=functions.sum code<|message|>",
        " to=functions.sum<|channel|>commentary code<|message|>",
    ],
)
def test_call_when_its_input_has_a_form_then_it_is_held_to_that_and_told_as_it_is(header: str) -> None:
    assert takes(TOOLS, f"{header}1 + 22<|call|>")
    assert not takes(TOOLS, f"{header}1 +<|call|>")
    assert not takes(TOOLS, f"{header}one")
    assert call_in(f"{header}1 + 22<|call|>", size=1) == ("sum", "1 + 22", CallSyntax.PLAIN)


@pytest.mark.parametrize("header", [" <|constrain|>json<|message|>", " json<|message|>", "<|message|>"])
def test_header_when_the_input_has_a_form_then_it_is_the_one_that_the_model_is_shown_again(header: str) -> None:
    assert not takes(TOOLS, f"<|channel|>commentary to=functions.sum{header}")
    assert takes(TOOLS, f"<|channel|>commentary to=functions.run_code{header}")


def test_input_when_its_grammar_is_codexs_of_patches_then_a_patch_can_come_and_nothing_else() -> None:
    tool = CustomTool("apply_patch", "", held(TextFormKind.GRAMMAR, PATCH))
    structure, header = OutputStructure(None, (tool,)), "<|channel|>commentary to=functions.apply_patch code<|message|>"
    patch = "*** Begin Patch\n*** Update File: a/b.py\n@@ def f():\n-    return 1\n+    return 2\n*** End Patch"
    assert takes(structure, f"{header}{patch}<|call|>")
    assert not takes(structure, f"{header}{patch.replace('***', '**')}")
    assert not takes(structure, f"{header}{patch.removesuffix('Patch')}<|call|>")


@pytest.mark.parametrize("call", [TO_CODE + '{"input":"print(\\"é\\")\\n\\u001b"}<|call|>', f"{TO_SUM}1 + 22<|call|>"])
def test_prompt_when_a_call_is_sent_back_then_it_goes_on_from_what_the_model_wrote(call: str) -> None:
    asked = ChatRequest((ChatMessage(Role.USER, "Hi"),), tools=TOOLS.tools)
    name, given, syntax = call_in(call)
    made = ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("a", name, given, syntax),))
    answered = replace(asked, messages=(*asked.messages, made, ChatMessage(Role.TOOL, "ok", tool_call_id="a")))
    written_so_far = [*render_prompt(asked), *tokens(call)]
    assert render_prompt(answered)[: len(written_so_far)] == written_so_far


# --- beside others, chosen, refused ---------------------------------------------------------------------------------


def test_calls_when_there_are_several_of_all_kinds_then_each_is_read_by_its_own() -> None:
    between, to_now = "<|end|><|start|>assistant", "<|channel|>commentary to=functions.now <|constrain|>json<|message|>"
    answer = f'{TO_SUM}1{between}{TO_CODE}{{"input":"a"}}{between}{to_now}{{}}{between}{TO_SUM}2<|call|>'
    assert takes(TOOLS, answer)
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas_of(answer, size=1):
        name, text = calls.get(delta.index, (delta.name or "", ""))
        calls[delta.index] = (name, text + delta.arguments)
    assert list(calls.values()) == [("sum", "1"), ("run_code", "a"), ("now", "{}"), ("sum", "2")]


def test_names_when_one_begins_another_of_the_other_syntax_then_both_can_be_called() -> None:
    structure = OutputStructure(None, (CustomTool("sum_up"), SUM, FunctionTool("su")))
    assert takes(structure, f"{TO_SUM}1<|call|>")
    assert takes(
        structure, '<|channel|>commentary to=functions.sum_up <|constrain|>json<|message|>{"input":""}<|call|>'
    )
    assert takes(structure, "<|channel|>commentary to=functions.su <|constrain|>json<|message|>{}<|call|>")


def test_choice_when_it_names_a_custom_tool_then_only_that_is_called_once() -> None:
    for tool, call in ((CODE, f'{TO_CODE}{{"input":"a"}}'), (SUM, f"{TO_SUM}1")):
        choice = ToolChoice(ToolChoiceMode.REQUIRED, tool.name)
        structure = OutputStructure(None, TOOLS.tools, choice, parallel_tool_calls=False)
        assert takes(structure, f"{call}<|call|>")
        assert not takes(structure, f"{call}<|end|>")
        others = [one for one in ("run_code", "sum", "now") if one != tool.name]
        assert not any(takes(structure, f"<|channel|>commentary to=functions.{other}") for other in others)
        assert not takes(structure, "<|channel|>final")


def test_end_when_several_calls_may_come_then_either_token_ends_an_input() -> None:
    mask = AnswerMask(TOOLS)
    for token in tokens(f'{TO_CODE}{{"input":"a"}}'):
        mask.accept(token)
    may_come = allowed(mask)
    assert may_come is not None
    assert set(np.flatnonzero(may_come).tolist()) == {CALL, END}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (TextFormKind.REGEX, "(a"),
        (TextFormKind.REGEX, "a(?=b)"),
        (TextFormKind.REGEX, "((a{50}){50}){40}"),
        (TextFormKind.GRAMMAR, "start: missing"),
        (TextFormKind.GRAMMAR, 'begin: "a"'),
        (
            TextFormKind.GRAMMAR,
            "start: A\n" + "\n".join(f"{chr(65 + i)}: {chr(66 + i)} {chr(66 + i)}" for i in range(20)),
        ),
        (TextFormKind.GRAMMAR, "start: /a{1000000000}/"),
        (TextFormKind.GRAMMAR, "start: " + "x" * 200_000),
    ],
)
def test_form_when_it_cannot_be_held_or_is_too_dear_then_it_is_refused_by_its_place_in_time(
    kind: TextFormKind, text: str
) -> None:
    started_s = time.thread_time()
    with pytest.raises(StructureError) as caught:
        check_structure(OutputStructure(None, (NOW, CustomTool("f", "", held(kind, text)))))
    assert str(caught.value).startswith("tools[1].custom.format.grammar.definition: ")
    assert time.thread_time() - started_s < 1.0


def test_names_when_a_function_and_a_custom_tool_share_one_then_it_is_refused() -> None:
    for tools, where in (((NOW, CustomTool("now")), "custom"), ((CustomTool("now"), NOW), "function")):
        with pytest.raises(StructureError, match=rf"^tools\[1\]\.{where}\.name: there is a tool 'now' before it"):
            check_structure(OutputStructure(None, tools))


@pytest.mark.parametrize("holding", [check_structure, AnswerMask])
def test_forms_when_all_together_take_too_long_then_the_tool_is_named_that_comes_after_them(
    monkeypatch: pytest.MonkeyPatch, holding: Callable[[OutputStructure], object]
) -> None:
    AnswerMask(TOOLS)  # the vocabulary is ready

    def tool(at: int) -> CustomTool:
        words = (f'"{holding.__name__}{at}_{n}"' for n in range(4000))
        return CustomTool(f"f{at}", "", held(TextFormKind.GRAMMAR, f"start: {' | '.join(words)}"))

    tools = tuple(map(tool, range(8)))
    if holding is AnswerMask:
        check_structure(OutputStructure(None, tools))  # what is left is to make grammars
    monkeypatch.setattr(checking, "_MAX_CHECK_S", 0.02)
    with pytest.raises(StructureError, match=r"^tools\[[1-7]\]\.custom: what comes before it took too long"):
        holding(OutputStructure(None, tools))
