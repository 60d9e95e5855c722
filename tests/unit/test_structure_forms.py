"""Answers held to a regular expression, one of several strings or a grammar, and which of these are refused."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest

from gptoss_backend.contract import FunctionTool, OutputStructure, ResponseFormat, TextForm, TextFormKind
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.harmony.vocabulary import CALL, END, ENDOFTEXT, ENDS, RETURN, VOCAB_SIZE, encoding
from gptoss_backend.structure.answer import mask_of
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.schemas import StructureError
from gptoss_backend.structure.text_forms import MAX_CHOICES, MAX_NESTED
from support.answer_masks import allowed

ARITHMETIC = """
start: sum
sum: product (("+" | "-") product)*
product: NUMBER ("*" NUMBER)*  // no brackets
NUMBER: /[1-9][0-9]{0,3}/
"""
REGEX, CHOICE, GRAMMAR = TextFormKind.REGEX, TextFormKind.CHOICE, TextFormKind.GRAMMAR


def chain(num_rules: int, before: str = "", behind: str = "") -> str:
    """Return a grammar of so many rules that each name the next, in brackets."""
    rules = (f"r{at}: {before}r{at + 1}{behind}" for at in range(num_rules - 1))
    return "\n".join(["start: r0", *rules, f'r{num_rules - 1}: "b"'])


def form(kind: TextFormKind, *texts: str) -> TextForm:
    return TextForm(kind, texts, f"structured_outputs.{kind}")


def whole(asked: TextForm | None = None, final: ResponseFormat | None = None) -> OutputStructure:
    return OutputStructure(final=final, form=asked, is_whole=True)


def advanced(structure: OutputStructure, text: str) -> TokenMask | None:
    """Return the mask after text, None where that may not come."""
    mask = mask_of(structure)
    for token in encoding().encode(text, allowed_special="all"):
        may_come = allowed(mask)
        if may_come is not None and not may_come[token]:
            return None
        mask.accept(token)
    return mask


def takes(structure: OutputStructure, text: str) -> bool:
    return advanced(structure, text) is not None


def babble(structure: OutputStructure, seed: int) -> str:
    """Answer as a model of random weights that ends its texts when it may."""
    random, mask, ids = np.random.default_rng(seed), mask_of(structure), list[int]()
    while not mask.is_finished:
        logits = random.gumbel(size=VOCAB_SIZE)
        logits[[RETURN, END]] += 12.0
        may_come = allowed(mask)
        assert may_come is not None
        ids.append(int(np.where(may_come, logits, -np.inf).argmax()))
        mask.accept(ids[-1])
        assert len(ids) < 500
    assert ids[-1] in ENDS
    text: str = encoding().decode(ids[:-1])
    return text


# --- whole texts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", [r"\d{3}-\d{4}", r"^(yes|no)$", "é+/\n\\w{2,5}", r"(?i:abc)?[^x]{1,9}", r"(a*)*b", "[/\"']{3}"]
)
def test_regex_when_anything_is_said_then_the_text_matches_it_whole(pattern: str) -> None:
    for seed in range(5):
        text = babble(whole(form(REGEX, pattern)), seed)
        assert re.fullmatch(pattern, text), (pattern, text)


def test_choice_when_anything_is_said_then_the_text_is_one_of_them() -> None:
    choices = ("yes", "yes, please", "no\n", '"\\', "\u0001\u2028é🙂/", "start")
    said = {babble(whole(form(CHOICE, *choices)), seed) for seed in range(30)}
    assert said <= set(choices)
    assert len(said) > 2
    for choice in choices:
        assert takes(whole(form(CHOICE, *choices)), choice + "<|return|>")


def test_grammar_when_anything_is_said_then_the_text_is_of_it() -> None:
    for seed in range(5):
        text = babble(whole(form(GRAMMAR, ARITHMETIC)), seed)
        assert re.fullmatch(r"[1-9]\d{0,3}([-+*][1-9]\d{0,3})*", text)
    assert not takes(whole(form(GRAMMAR, ARITHMETIC)), "(1")


def test_grammar_when_its_names_are_ours_too_then_they_do_not_meet() -> None:
    structure = whole(form(GRAMMAR, 'start: text end\ntext: "a"\nend: "b"'))
    assert takes(structure, "ab<|return|>")
    assert not takes(structure, "a<|return|>")


def test_json_when_the_text_is_whole_then_it_begins_with_it() -> None:
    structure = whole(final=ResponseFormat({"type": "object", "properties": {"a": {"type": "integer"}}}))
    assert takes(structure, '{"a": 1}<|return|>')
    assert not takes(structure, "<|channel|>")


def test_text_when_it_has_ended_then_the_answer_is_finished() -> None:
    for end in ("<|return|>", "<|end|>", "<|endoftext|>"):
        mask = advanced(whole(form(CHOICE, "a")), "a" + end)
        assert mask is not None
        assert mask.is_finished
    may_come = allowed(advanced(whole(form(CHOICE, "a", "ab")), "a") or pytest.fail("'a' may not come"))
    assert may_come is not None
    assert all(may_come[end] for end in (RETURN, END, ENDOFTEXT))
    assert not may_come[CALL]


# --- chats ----------------------------------------------------------------------------------------------------------


def test_chat_when_held_to_a_form_then_reasoning_is_free_and_the_final_text_is_not() -> None:
    structure = OutputStructure(form=form(CHOICE, "yes", "no"))
    reasoned = "<|channel|>analysis<|message|>Hm, maybe.<|end|><|start|>assistant"
    assert takes(structure, reasoned + "<|channel|>final<|message|>yes<|return|>")
    assert not takes(structure, reasoned + "<|channel|>final<|message|>maybe")
    assert not takes(structure, "<|channel|>commentary<|message|>")
    assert not takes(structure, "<|channel|>final <|constrain|>json<|message|>")


def test_chat_when_there_are_tools_beside_the_form_then_a_call_may_come() -> None:
    structure = OutputStructure(form=form(CHOICE, "yes", "no"), tools=(FunctionTool("look"),))
    assert takes(structure, "<|channel|>commentary to=functions.look <|constrain|>json<|message|>{}<|call|>")
    assert takes(structure, "<|channel|>final<|message|>no<|return|>")


# --- refusals -------------------------------------------------------------------------------------------------------

DOUBLING = "start: A0\n" + "\n".join(f"A{at}: A{at + 1} A{at + 1}" for at in range(30)) + '\nA30: "x"'


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (form(REGEX, "("), "it cannot be enforced: unclosed group"),
        (form(REGEX, r"\bfoo\b"), "lookarounds not supported"),
        (form(REGEX, "(?=a)b"), "cannot be enforced"),
        (form(REGEX, r"((a{50}){50}){40}"), "counts written out"),
        (form(REGEX, r"a{1000000000}"), "counts written out"),
        (form(REGEX, "a" * 200_000), "128 KiB"),
        (form(CHOICE, *map(str, range(MAX_CHOICES + 1))), "2001 choices"),
        (form(GRAMMAR, 'root ::= "a"'), "rule 'start'"),
        (form(GRAMMAR, 'start: "a'), "cannot be enforced"),
        (form(GRAMMAR, "start: nowhere"), "cannot be enforced"),
        (form(GRAMMAR, 'start: "a"{}'), "cannot be enforced"),
        (form(GRAMMAR, DOUBLING), "terminal 'A"),
        (form(GRAMMAR, 'start: A\nA: ("x"{50}){50}'), "terminal 'A'"),
        (form(GRAMMAR, "start: A\nA: /((a{50}){50}){40}/"), "'A'"),
        (form(GRAMMAR, "start: /((a{50}){50}){40}/"), "counts beyond"),
        (form(GRAMMAR, 'start: "a" /b{2000}/ // /'), "counts beyond"),
        (form(GRAMMAR, 'start: "a"{1000000000}'), "counts beyond"),
        (form(GRAMMAR, "start: A\nA: B\nB: A"), "made of itself"),
        (form(GRAMMAR, 'start: A\nA: ["x"{50} "x"{50}]{50}'), "terminal 'A'"),
        (form(GRAMMAR, chain(MAX_NESTED)), "1000 rules, terminals and groups"),
        (form(GRAMMAR, chain(300, '(["x" (', ")])")), "rules, terminals and groups"),
        (form(GRAMMAR, "start: T0\n" + "\n".join(f"T{at}: T{at + 1}" for at in range(9000))), "rules, terminals and"),
        (form(GRAMMAR, 'start: %json {"type": "string"}'), "'%json' is not taken"),
        (form(GRAMMAR, 'start: %regex {"substring_chars": "a"}'), "'%regex' is not taken"),
        (form(GRAMMAR, "start: @answer"), "'@' is not taken"),
        (form(GRAMMAR, "start: a\na [ lazy ]: B{900}\nB: /x{900}/"), "options ('lazy')"),
        (form(GRAMMAR, '# "\nstart: A-1\n# "\nA-1: ("x"{50}){50}'), "terminal 'A-1'"),
    ],
)
def test_form_when_it_cannot_be_held_then_the_sentence_says_why_and_soon(asked: TextForm, sentence: str) -> None:
    begun = time.thread_time()
    with pytest.raises(StructureError, match=re.escape(sentence)) as caught:
        check_structure(whole(asked))
    assert str(caught.value).startswith(f"{asked.where}: ")
    assert time.thread_time() - begun < 3.0


@pytest.mark.parametrize("grammar", ["chain", "groups"])
def test_grammar_when_it_is_as_deep_as_may_be_then_it_is_held(grammar: str) -> None:
    text = chain(MAX_NESTED - 3) if grammar == "chain" else chain(90, "(" * 10, ")?" * 10)
    assert takes(whole(form(GRAMMAR, text)), "b<|return|>")


def test_form_when_its_counts_only_look_large_then_it_is_taken() -> None:
    check_structure(whole(form(GRAMMAR, 'start: A // B: C{9999}\nA: "{5000}" /[\\/]a{2}/i')))
    check_structure(whole(form(GRAMMAR, "%import common.NUMBER\n%ignore / /\nstart: NUMBER+")))
    check_structure(whole(form(GRAMMAR, 'start: "a"{ , }')))
    check_structure(whole(form(REGEX, "[a-z]{0,900}")))
