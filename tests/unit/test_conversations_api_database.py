"""Conversations in the file: how long they lie, who makes room, leases, files of earlier versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gptoss_adapter.responses.keeping.conversation_tables import StoredConversation, StoredItem
from gptoss_adapter.responses.keeping.database import ResponseDatabase, StoredResponse
from gptoss_adapter.responses.keeping.holds import Place
from gptoss_adapter.responses.keeping.progress import LEASE_S
from support.kept_database import MIB, Clock, database_fixtures

clock, opened = database_fixtures()


def create(database: ResponseDatabase, name: str, *texts: str) -> None:
    """Keep a conversation with those items, making room for it."""
    with database.writing():
        database.room.make(sum(map(len, texts)))
        database.conversations.create(StoredConversation(name, 1, "{}"))
        database.conversations.add(name, [StoredItem(f"{name}-{at}", text) for at, text in enumerate(texts)])


def hold(database: ResponseDatabase, name: str, response: str) -> Place:
    conversation = database.conversations.load(name)
    assert conversation is not None
    database.holds.take(name, response)
    return Place(name, conversation.next_position)


def items(database: ResponseDatabase, name: str) -> list[str]:
    return database.conversations.items(name, before=1_000_000)


def stored(name: str, place: Place | None = None, num_bytes: int = 10) -> StoredResponse:
    return StoredResponse(name, None, response="{}", input="[]", output="x" * num_bytes, place=place)


def test_writing_when_its_end_fails_then_nothing_is_kept_and_the_next_one_can_begin(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened()

    def write() -> None:
        with database.writing():
            database.conversations.create(StoredConversation("a", 1, "{}"))
            database._connection.execute("PRAGMA defer_foreign_keys = ON")
            database._connection.execute("INSERT INTO conversation_items VALUES ('no such', 1, 'b', '{}')")

    with pytest.raises(sqlite3.IntegrityError):
        write()
    create(database, "b")
    assert [database.conversations.load(name) is not None for name in "ab"] == [False, True]


# --- how long -------------------------------------------------------------------------------------------------------


def test_conversation_when_nobody_says_how_long_then_it_is_kept_until_it_is_deleted(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened()
    create(database, "a", "1")
    clock.now += 1e9
    create(database, "b")
    assert items(database, "a") == ["1"]
    assert database.conversations.delete("a") is True
    assert (database.conversations.load("a"), database.conversations.delete("a"), items(database, "a")) == (
        None,
        False,
        [],
    )


def test_conversation_when_it_has_lain_for_too_long_then_nothing_finds_it_and_later_ones_take_its_place(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened(keep_conversations_s=10)
    create(database, "a", "1")
    clock.now += 9
    database.conversations.use("a")
    clock.now += 9
    assert database.conversations.load("a") is not None
    assert database.conversations.find_item("a-0") == "1"
    clock.now += 1
    assert (database.conversations.load("a"), database.conversations.find_item("a-0")) == (None, None)
    create(database, "b")
    assert items(database, "a") == []


def test_conversation_when_a_response_of_it_is_continued_then_it_is_used(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened(keep_conversations_s=10)
    create(database, "a", "1")
    database.save(stored("first", hold(database, "a", "first")), [], [])
    clock.now += 9
    database.save(StoredResponse("second", "first", "{}", "[]", "[]"), [])
    clock.now += 9
    assert [link.id for link in database.links.chain("second")] == ["a", "first", "second"]


# --- room -----------------------------------------------------------------------------------------------------------


def test_file_when_it_is_full_of_responses_then_conversations_that_are_fewer_stay(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened(2 * MIB)
    create(database, "a", "x" * 20_000)
    for number in range(200):
        clock.now += 0.01
        database.save(stored(str(number), num_bytes=20_000), [])
    assert items(database, "a") == ["x" * 20_000]
    assert database.load("199") is not None
    assert database.load("0") is None


def test_file_when_it_is_full_of_conversations_then_that_goes_which_was_used_the_longest_ago(
    opened: Callable[..., ResponseDatabase], clock: Clock, tmp_path: Path
) -> None:
    database = opened(2 * MIB)
    database.save(stored("response"), [])
    for number in range(200):
        clock.now += 0.01
        create(database, str(number), "x" * 20_000)
        database.conversations.use("0")
    assert database.conversations.load("1") is None
    assert [database.conversations.load(name) is not None for name in ("0", "198", "199")] == [True] * 3
    assert database.load("response") is not None
    database.close()
    assert (tmp_path / "r.sqlite").stat().st_size <= 2 * MIB


def test_file_when_it_is_full_then_the_conversation_that_is_added_to_is_not_what_makes_room(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened(2 * MIB)
    create(database, "a", "x" * MIB)

    def add() -> None:
        with database.writing():
            database.room.make(MIB, spared="a")
            database.conversations.add("a", [StoredItem("more", "x" * MIB)])

    with pytest.raises(sqlite3.Error, match="full"):
        add()
    assert items(database, "a") == ["x" * MIB]


def test_file_when_somebodys_conversations_are_the_most_then_others_lose_nothing(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened(2 * MIB)
    database.owner = "alice"
    create(database, "hers", "x" * 20_000)
    database.save(stored("answered to her", num_bytes=20_000), [])
    database.owner = "bob"
    for number in range(200):
        create(database, str(number), "x" * 20_000)
    database.owner = "alice"
    assert database.conversations.load("hers") is not None
    assert database.load("answered to her") is not None


# --- holds ----------------------------------------------------------------------------------------------------------


def test_hold_when_its_lease_runs_out_then_others_may_take_it_and_else_it_is_taken_back(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database, other = opened(), opened()
    create(database, "a")
    hold(database, "a", "one")
    clock.now += LEASE_S - 1
    assert (other.holds.is_held("a"), database.holds.renew({"one"})) == (True, set())
    clock.now += LEASE_S
    assert (other.holds.is_held("a"), database.holds.renew({"one"}), other.holds.is_held("a")) == (False, set(), True)
    clock.now += LEASE_S
    hold(other, "a", "two")
    assert database.holds.renew({"one"}) == {"one"}


@pytest.mark.parametrize("is_taken", [True, False])
def test_turn_when_its_process_stood_still_and_the_conversation_went_on_then_nothing_is_added(
    opened: Callable[..., ResponseDatabase], clock: Clock, is_taken: bool
) -> None:
    database, other = opened(), opened()
    create(database, "a", "1")
    place = hold(database, "a", "one")
    database.begin(stored("one", place), [], ())
    clock.now += LEASE_S
    if is_taken:
        other.add_turn("two", hold(other, "a", "two"), [StoredItem("2", "2")])
    else:
        other.conversations.add("a", [StoredItem("2", "2")])
    ended = database.end(stored("one", place), [], (), [StoredItem("late", "late")])
    assert (ended.is_kept, ended.is_added) == (True, False)
    assert items(other, "a") == ["1", "2"]
    kept = other.load("one")
    assert kept is not None
    assert kept.place is None  # it is not told as one of the conversation
    assert [link.input for link in other.links.chain("one")] == ["[1]", "[]"]  # but was made from what came before


def test_turn_when_its_response_was_cancelled_elsewhere_then_nothing_is_added_and_the_conversation_is_free(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database, other = opened(), opened()
    create(database, "a")
    place = hold(database, "a", "one")
    database.begin(stored("one", place), [], ())
    assert other.end(stored("one"), [], ()).is_kept is True
    assert other.holds.is_held("a") is False
    ended = database.end(stored("one", place), [], (), [StoredItem("late", "late")])
    assert (ended.is_kept, ended.is_added, items(database, "a")) == (False, False, [])


def test_position_when_the_last_item_is_taken_out_then_no_other_item_gets_it(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened()
    create(database, "a", "1", "2")
    place = hold(database, "a", "one")
    database.save(stored("one", place), [], [StoredItem("3", "3")])
    database.conversations.remove("a", "3")
    database.conversations.add("a", [StoredItem("4", "4")])
    assert [link.input for link in database.links.chain("one")] == ["[1,2]", "[]"]
    assert items(database, "a") == ["1", "2", "4"]


# --- files of earlier versions --------------------------------------------------------------------------------------


def test_file_when_an_earlier_version_made_it_then_conversations_are_added_and_that_version_can_go_on(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    opened().save(stored("old"), [])
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        for table in ("conversation_items", "conversation_holds", "conversation_places", "conversations"):
            connection.execute(f"DROP TABLE {table}")
        database = opened()
        create(database, "a", "1")
        database.save(stored("new", hold(database, "a", "new")), [], [StoredItem("2", "2")])
        assert items(database, "a") == ["1", "2"]
        assert database.load("old") is not None
        connection.execute("INSERT INTO responses VALUES ('by the old one', NULL, 2e6, '{}', '[]', '[]')")
        connection.commit()
    assert database.load("by the old one") is not None


def test_conversation_when_deleted_then_its_text_is_not_in_the_file(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    database = opened()
    create(database, "a", '"secret words"')
    database.conversations.delete("a")
    database.close()
    assert b"secret words" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
