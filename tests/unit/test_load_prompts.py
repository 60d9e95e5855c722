"""The simulated people's prompts: the same for the same seed, and partly shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from load.prompts import NUM_DOCUMENTS, QUESTIONS, PromptBook, document


def book(seed: str = "0.0.1", repeat_share: float = 0.7) -> PromptBook:
    return PromptBook(seed, repeat_share=repeat_share, document_words=100)


def questions(prompts: PromptBook, count: int = 50) -> list[str]:
    return [prompts.question() for _ in range(count)]


def test_prompts_when_the_seed_is_the_same_then_so_are_the_prompts() -> None:
    assert questions(book()) == questions(book())
    assert questions(book("0.0.1")) != questions(book("0.0.2"))


@pytest.mark.parametrize("ask", [PromptBook.question, PromptBook.opening, PromptBook.document_question])
def test_prompts_when_nothing_is_repeated_then_no_two_users_ask_the_same(ask: Callable[[PromptBook], str]) -> None:
    users = [book(f"0.0.{number}", repeat_share=0.0) for number in range(4)]

    asked = Counter(ask(user) for user in users for _ in range(20))

    assert max(asked.values()) == 1


def test_prompts_when_users_share_pools_then_a_third_of_the_first_messages_was_asked_before() -> None:
    users = [book(f"0.0.{number}") for number in range(8)]
    asked = [user.question() for user in users for _ in range(12)]

    assert 1 - len(set(asked)) / len(asked) >= 0.3


def test_prompts_when_everything_is_repeated_then_only_the_pool_is_asked() -> None:
    assert set(questions(book(repeat_share=1.0), 200)) == set(QUESTIONS)


def test_document_when_made_again_then_it_is_the_same_and_as_long_as_asked() -> None:
    for number in range(NUM_DOCUMENTS):
        assert document(number, 1200) == document(number, 1200)
        assert 1200 <= len(document(number, 1200).split()) < 1230
    assert document(0, 100) != document(1, 100)


def test_document_question_when_asked_then_the_document_comes_first_so_that_its_prefix_is_shared() -> None:
    prompt = book().document_question()

    assert any(prompt.startswith(document(number, 100)) for number in range(NUM_DOCUMENTS))


def test_think_time_when_drawn_often_then_its_mean_is_the_one_asked_for() -> None:
    prompts = book()

    assert sum(prompts.think_s(2.0) for _ in range(4000)) / 4000 == pytest.approx(2.0, rel=0.1)
    assert prompts.think_s(0.0) == 0.0
