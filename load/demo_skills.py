"""What the demo model can do: questions that its training never saw, each with one right answer.

Stage: none of a request's; the engine runs in this process, without a grammar's help.
Owns: the evaluation and its table. Does not know: how the model was trained.

    .venv/bin/python -m load.demo_skills [--questions 100] [--checkpoint FOLDER]

An answer is right where its text is the expected one, or its call has the expected name and arguments, or its JSON is
the expected object. A call or JSON is valid where an offered schema allows it, any other answer where it is right.
It is well formed where Harmony's strict parser reads it as reasoning and then one final text or one call, ended as the
format asks. All 201,088 tokens compete. Words and whole questions are kept from training.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

import torch
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from openai_harmony import HarmonyError, Message
from openai_harmony import Role as HarmonyRole

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.trained_checkpoint import write_trained_checkpoint
from gptoss_backend.demo.training.dialogue import Call, Dialogue
from gptoss_backend.demo.training.mixture import KINDS, draw
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.harmony.header import NAMESPACE
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import CALL, RETURN, encoding
from load.bench.figures import markdown

_MOST_TOKENS = 256
_TEMPERATURES = (0.0, 1.0)
_HEADINGS = ("kind", "right, greedy", "valid, greedy", "right, temperature 1", "well formed, temperature 1")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one answer was."""

    is_right: bool
    is_valid: bool
    is_well_formed: bool


_MALFORMED = Outcome(is_right=False, is_valid=False, is_well_formed=False)


def main() -> int:
    """Ask, and print the table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as place:
        folder = arguments.checkpoint or Path(place) / "gpt-oss-demo"
        if not folder.exists():
            write_trained_checkpoint(folder)
        asker = Asker(folder, arguments.threads)
        rows: list[tuple[str, ...]] = [_HEADINGS]
        rows += evaluate(asker, arguments.kinds, arguments.questions, shown=arguments.show)
        asker.stop()
    sys.stdout.write(f"{markdown(rows)}\n")
    return 0


class Asker:
    """An engine over the checkpoint."""

    def __init__(self, folder: Path, threads: int | None) -> None:
        self._deltas: SimpleQueue[TokenDelta] = SimpleQueue()
        options = EngineOptions(num_threads=threads, max_num_seqs=16)
        self._engine = Engine.load(folder, options, self._take, device=torch.device("cpu"))
        self._engine.start()

    def ask(self, dialogues: Sequence[Dialogue], temperature: float) -> list[list[int]]:
        """Return the tokens that the model answers each with. Raises RuntimeError where the engine fails."""
        answers: dict[str, list[int]] = {str(number): [] for number in range(len(dialogues))}
        for number, dialogue in enumerate(dialogues):
            sampling = SamplingParams(max_tokens=_MOST_TOKENS, temperature=temperature, seed=number)
            self._engine.submit(GenerationRequest(str(number), render_prompt(dialogue.request), sampling))
        left = len(dialogues)
        while left:
            delta = self._deltas.get()
            if delta.error is not None:
                raise RuntimeError(delta.error)
            answers[delta.request_id] += delta.token_ids
            left -= delta.is_last
        return list(answers.values())

    def stop(self) -> None:
        """End the engine."""
        self._engine.stop(0.0)

    def _take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            self._deltas.put(delta)


def evaluate(asker: Asker, kinds: Sequence[str], num_questions: int, *, shown: int) -> list[tuple[str, ...]]:
    """Return a row for each kind, and one for all of them."""
    totals: list[list[Outcome]] = [[], []]
    rows = []
    for kind in kinds:
        rng = Random(f"evaluation of {kind}")
        dialogues = [draw(rng, kind, held_out=True) for _ in range(num_questions)]
        columns = []
        for total, temperature in zip(totals, _TEMPERATURES, strict=True):
            answers = asker.ask(dialogues, temperature)
            outcomes = [judge(dialogue, answer) for dialogue, answer in zip(dialogues, answers, strict=True)]
            _show_wrong(kind, temperature, dialogues, answers, outcomes, shown)
            columns.append(outcomes)
            total += outcomes
        rows.append(_row(kind, *columns))
    return [*rows, _row("all", *totals)]


def judge(dialogue: Dialogue, answer: Sequence[int]) -> Outcome:
    """Say whether an answer is well formed and right."""
    try:
        messages = encoding().parse_messages_from_completion_tokens(list(answer), HarmonyRole.ASSISTANT, strict=True)
    except (HarmonyError, ValueError):
        return _MALFORMED
    last = messages[-1] if messages else None
    is_final = last is not None and last.channel == "final" and last.recipient is None and answer[-1] == RETURN
    if (
        last is None
        or len(messages) != 2
        or messages[0].channel != "analysis"
        or not (is_final or _is_call(last, answer))
    ):
        return _MALFORMED
    is_right = _is_right(dialogue, last)
    return Outcome(is_right, is_right or _is_valid(dialogue, last), is_well_formed=True)


def _is_call(last: Message, answer: Sequence[int]) -> bool:
    is_to_function = last.recipient is not None and last.recipient.startswith(NAMESPACE)
    return is_to_function and last.channel == "commentary" and answer[-1] == CALL


def _is_right(dialogue: Dialogue, last: Message) -> bool:
    text = _text_of(last)
    if isinstance(dialogue.answer, Call):
        is_named = last.recipient == NAMESPACE + dialogue.answer.name
        return is_named and bool(_json(text) == dialogue.answer.arguments)
    if last.recipient is not None:
        return False
    if dialogue.response_format is not None:
        return bool(_json(text) == json.loads(dialogue.answer))
    return text == dialogue.answer


def _is_valid(dialogue: Dialogue, last: Message) -> bool:
    """Say whether a call or JSON is one that the offered schemas allow."""
    if isinstance(dialogue.answer, Call):
        schemas = {NAMESPACE + tool.name: tool.parameters for tool in dialogue.tools}
        schema = schemas.get(last.recipient or "")
    else:
        schema = dialogue.response_format.schema if dialogue.response_format and last.recipient is None else None
    return schema is not None and Draft202012Validator(schema).is_valid(_json(_text_of(last)))


def _text_of(message: Message) -> str:
    return "".join(getattr(part, "text", "") for part in message.content)


def _json(text: str) -> Any:  # noqa: ANN401 (any JSON value)
    try:
        return json.loads(text)
    except ValueError:
        return None


def _row(kind: str, greedy: Sequence[Outcome], sampled: Sequence[Outcome]) -> tuple[str, ...]:
    shares = (
        [outcome.is_right for outcome in greedy],
        [outcome.is_valid for outcome in greedy],
        [outcome.is_right for outcome in sampled],
        [outcome.is_well_formed for outcome in sampled],
    )
    return (kind, *(f"{sum(share)} of {len(share)} ({sum(share) / len(share):.1%})" for share in shares))


def _show_wrong(
    kind: str,
    temperature: float,
    dialogues: Sequence[Dialogue],
    answers: Sequence[Sequence[int]],
    outcomes: Sequence[Outcome],
    most: int,
) -> None:
    wrong = [at for at, outcome in enumerate(outcomes) if not outcome.is_right]
    for at in wrong[:most]:
        sys.stderr.write(
            f"--- {kind}, temperature {temperature}: {dialogues[at].messages[-1].content}\n"
            f"wanted {dialogues[at].answer}\ngot    {encoding().decode(list(answers[at]))}\n"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m load.demo_skills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--questions", type=int, default=100, help="of each kind [100]")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--checkpoint", type=Path, help="[the shipped weights, unpacked]")
    parser.add_argument("--threads", type=int, help="of the engine [all cores but one]")
    parser.add_argument("--show", type=int, default=0, help="wrong answers of each kind to print")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
