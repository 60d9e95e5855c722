"""A regular expression, strings to choose from, or a grammar → the text of a grammar, if it is small enough.

Stage: 3 prompt, and again before 4 schedule, where a grammar is made of the text.
Owns: what of these is refused and in which words, how large they may be.
Does not know: JSON schemas (schemas.py), tokens, Harmony.

The library's time for a token grows with the square of a lexeme's length, its counts written out, and its own limits do
not see that: `((a{50}){50}){40}` took 12 s a token, thirty terminals that each name the next twice never ended. So
lexemes are measured here, before it sees them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Final

from llguidance import LLMatcher, regex_to_lark

from gptoss_backend.contract import MAX_SCHEMA_BYTES, TextForm, TextFormKind
from gptoss_backend.structure.reduction import MAX_PATTERN_REPEATS, num_repeats
from gptoss_backend.structure.schemas import LIMITS, StructureError, first_line

MAX_CHOICES: Final = 2_000
"""The library's own limit on what may stand side by side."""
_MAX_RULE_REPEATS: Final = 100_000
MAX_NESTED: Final = 1000
"""Rules, terminals and groups of a grammar. The library goes down them by recursion: where 2,500 rules each name the
next its stack overflowed, which ends the process."""
_START: Final = re.compile(r"^[ \t]*start\b", re.MULTILINE)
_DIRECTIVES: Final = frozenset({"%ignore", "%import", "%llguidance"})
"""Others hold a grammar of their own, or name one."""
_OPTIONS: Final = re.compile(r"[\[,]\s*(lazy|stop|suffix|max_tokens|capture|stop_capture|temperature)\b")
"""What stands in brackets behind a rule's name; it may make a lexeme of the whole rule."""
_PARTS: Final = re.compile(
    r"""(?P<comment>(?://|\#)[^\n]*)
      | (?P<text>"(?:\\.|[^"\\])*")
      | (?P<pattern>/(?:\\.|[^/\\])+/)
      | (?P<count>\{\s*(?P<least>\d*)\s*(?:,\s*(?P<most>\d*)\s*)?\} | ~\s*(?P<times>\d+)(?:\s*\.\.\s*(?P<up_to>\d+))?)
      | (?P<head>^[ \t]*[?!]?[A-Za-z_][\w-]*(?=[ \t]*:))
      | (?P<name>[A-Za-z_][\w-]*)
      | (?P<directive>%\w+|@)
      | (?P<open>[(\[]) | (?P<close>[)\]])""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def form_grammar(form: TextForm) -> str:
    """Return the text of a grammar in the library's Lark, with a rule `start`. Raises StructureError.

    Takes a few milliseconds for one not seen before.
    """
    prepared, fault = _prepared(form)
    if fault is not None:
        raise StructureError(f"{form.where}: {fault}.")
    return prepared


@lru_cache(maxsize=256)
def _prepared(form: TextForm) -> tuple[str, str | None]:
    """Return the grammar and why it cannot be enforced, None where it can."""
    if sum(len(text.encode(errors="surrogatepass")) for text in form.texts) > MAX_SCHEMA_BYTES:
        return "", f"it is longer than {MAX_SCHEMA_BYTES // 1024} KiB"
    match form.kind:
        case TextFormKind.REGEX:
            grammar, fault = f"start: /{regex_to_lark(form.texts[0])}/", _fault_of_pattern(form.texts[0])
        case TextFormKind.CHOICE:
            grammar = "start: " + " | ".join(json.dumps(text, ensure_ascii=False) for text in form.texts)
            fault = _fault_of_choice(form.texts)
        case TextFormKind.GRAMMAR:
            grammar, fault = form.texts[0], _fault_of_grammar(form.texts[0])
    return grammar, fault or _fault(grammar)


def _fault_of_pattern(pattern: str) -> str | None:
    if num_repeats(pattern) > MAX_PATTERN_REPEATS:
        return f"the regular expression, its counts written out, is longer than {MAX_PATTERN_REPEATS} characters"
    return None


def _fault_of_choice(texts: tuple[str, ...]) -> str | None:
    if len(texts) > MAX_CHOICES:
        return f"there are {len(texts)} choices; {MAX_CHOICES} are taken"
    return None


def _fault_of_grammar(grammar: str) -> str | None:
    """Look for what is too large, without understanding more of the grammar than that takes."""
    if not _START.search(grammar):
        return "the grammar is to be Lark with a rule 'start'"
    if options := _OPTIONS.search(grammar):
        return f"a rule with options ({options[1]!r}) is not taken in a grammar here"
    definitions: dict[str, list[re.Match[str]]] = {"": []}
    last = ""
    for part in _PARTS.finditer(grammar):
        if part["head"]:
            last = part["head"].strip(" \t?!")
            definitions.setdefault(last, [])
        elif part["directive"] and part["directive"] not in _DIRECTIVES:
            return f"{part['directive']!r} is not taken in a grammar here"
        else:
            definitions[last].append(part)
    num_groups = sum(part["open"] is not None for parts in definitions.values() for part in parts)
    if len(definitions) + num_groups > MAX_NESTED:
        return f"the grammar has more than {MAX_NESTED} rules, terminals and groups"
    return _fault_of_definitions(definitions)


def _fault_of_definitions(definitions: dict[str, list[re.Match[str]]]) -> str | None:
    try:
        order = list(TopologicalSorter({name: _terminals(parts) for name, parts in definitions.items()}).static_order())
    except CycleError:
        return "a terminal of the grammar is made of itself"
    lengths: dict[str, int] = {}
    for name in order:
        lengths[name] = length = _length(definitions.get(name, []), lengths)
        if _is_terminal(name) and length > MAX_PATTERN_REPEATS:
            return f"the terminal {name[:80]!r}, its counts written out, is longer than {MAX_PATTERN_REPEATS}"
        for part in definitions.get(name, []):
            if part["pattern"] and num_repeats(part["pattern"][1:-1]) > MAX_PATTERN_REPEATS:
                return f"the pattern {part['pattern'][:80]!r} counts beyond {MAX_PATTERN_REPEATS}"
            if part["count"] and max(_counts(part), default=0) > _MAX_RULE_REPEATS:
                return f"a rule of the grammar counts beyond {_MAX_RULE_REPEATS}"
    return None


def _terminals(parts: list[re.Match[str]]) -> set[str]:
    return {part["name"] for part in parts if part["name"] and _is_terminal(part["name"])}


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


def _length(parts: list[re.Match[str]], lengths: dict[str, int]) -> int:
    """Return how long a definition is with its counts written out, and with what it names in place of the names."""
    sums, last = [0], 0  # of the open groups; of the last atom
    for part in parts:
        if part["open"]:
            sums.append(0)
            last = 0
        elif part["close"]:
            last = sums.pop() if len(sums) > 1 else 0
            sums[-1] += last
        elif part["count"]:
            more = last * (max((1, *_counts(part))) - 1)
            last += more
            sums[-1] += more
        else:
            last = min(_length_of_atom(part, lengths), MAX_PATTERN_REPEATS + 1)
            sums[-1] += last
    return min(sum(sums), MAX_PATTERN_REPEATS + 1)


def _length_of_atom(part: re.Match[str], lengths: dict[str, int]) -> int:
    if part["text"]:
        return len(part["text"]) - 2
    if part["pattern"]:
        return num_repeats(part["pattern"][1:-1])
    return lengths.get(part["name"], 0) if part["name"] else 0


def _counts(part: re.Match[str]) -> Iterator[int]:
    return (int(part[name][:9]) for name in ("least", "most", "times", "up_to") if part[name])


def _fault(grammar: str) -> str | None:
    is_error, messages = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_lark(grammar), limits=LIMITS)
    return f"it cannot be enforced: {first_line(messages)}" if is_error else None
