"""The file responses are kept in: expiry, the bound on its size, several users."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_adapter.responses.keeping.database import SCHEMA_VERSION, ResponseDatabase, StoredResponse
from gptoss_adapter.responses.keeping.progress import LEASE_S, EventChunk
from support.kept_database import KEEP_S, MIB, Clock, database_fixtures

clock, opened = database_fixtures()


def stored(name: str, previous: str | None = None, num_bytes: int = 10) -> StoredResponse:
    return StoredResponse(name, previous, response=f'{{"name":"{name}"}}', input="[]", output="x" * num_bytes)


def chain_ids(database: ResponseDatabase, name: str) -> list[str]:
    return [link.id for link in database.links.chain(name)]


def test_response_when_it_is_anothers_then_nothing_finds_it(opened: Callable[..., ResponseDatabase]) -> None:
    database = opened()
    database.owner = "alice"
    database.save(stored("a"), ["item"])
    for other in ("bob", ""):
        database.owner = other
        assert (database.load("a"), database.links.chain("a"), database.holder("item")) == (None, [], None)
        assert database.delete("a") is False
    database.owner = "alice"
    assert database.load("a") == stored("a")
    assert database.holder("item") == "a"
    assert chain_ids(database, "a") == ["a"]
    assert database.delete("a") is True


def test_response_when_it_was_kept_before_there_were_owners_then_it_is_nobodys(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    database = opened()
    database.save(stored("a"), [])
    database.close()
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.execute("DROP TABLE owners")
    database = opened()
    assert database.load("a") == stored("a")
    database.owner = "alice"
    assert database.load("a") is None


def test_file_when_it_is_full_then_whoever_has_most_makes_room(opened: Callable[..., ResponseDatabase]) -> None:
    database = opened(2 * MIB)
    database.owner = "alice"
    database.save(stored("hers", num_bytes=20_000), [])
    database.owner = "bob"
    for number in range(200):
        database.save(stored(str(number), num_bytes=20_000), [])
    assert database.load("0") is None
    database.owner = "alice"
    assert database.load("hers") is not None


def test_file_when_it_is_full_of_what_an_earlier_version_kept_then_that_makes_room(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    earlier = opened()
    for number in range(40):
        earlier.save(stored(f"old-{number}", num_bytes=MIB // 10), [])
    earlier.close()
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.execute("DROP TABLE owners")
    database = opened(max_bytes=5 * MIB)
    database.owner = "alice"
    for number in range(20):
        database.save(stored(f"new-{number}", num_bytes=MIB // 10), [])
    assert all(database.load(f"new-{number}") for number in range(20))
    assert database.load("old-39") is None  # it is nobody's
    database.owner = ""
    assert database.load("old-39") is not None
    assert database.load("old-0") is None


def test_response_when_its_time_has_passed_then_nothing_finds_it(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened()
    database.save(stored("a"), ["item"])
    clock.now += KEEP_S - 1
    assert database.load("a") == stored("a")
    assert database.holder("item") is not None
    clock.now += 1
    assert database.load("a") is None
    assert database.links.chain("a") == []
    assert database.holder("item") is None
    assert database.delete("a") is False


def test_responses_when_expired_then_later_writes_remove_them_from_the_file(
    opened: Callable[..., ResponseDatabase], clock: Clock, tmp_path: Path
) -> None:
    database = opened()
    for number in range(20):
        database.save(stored(f"old{number}"), [f"item{number}"])
    clock.now += KEEP_S
    for number in range(3):
        database.save(stored(f"new{number}"), [])
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (3,)
        assert connection.execute("SELECT count(*) FROM items").fetchone() == (0,)


def test_response_when_it_is_continued_then_all_of_its_conversation_lives_as_long_as_the_newest(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened()
    database.save(stored("a"), [])
    database.save(stored("aside", "a"), [])
    clock.now += 60
    database.save(stored("b", "a"), [])
    clock.now += 60
    database.save(stored("c", "b"), [])
    assert chain_ids(database, "c") == ["a", "b", "c"]
    assert database.load("aside") is None


def test_chain_when_it_is_long_then_it_comes_oldest_first(opened: Callable[..., ResponseDatabase]) -> None:
    database = opened()
    for number in range(500):
        database.save(stored(str(number), str(number - 1) if number else None), [])
    assert chain_ids(database, "499") == [str(number) for number in range(500)]


def test_file_when_more_is_kept_than_fits_then_the_oldest_go_and_it_never_grows_beyond_its_bound(
    opened: Callable[..., ResponseDatabase], clock: Clock, tmp_path: Path
) -> None:
    database = opened(max_bytes=MIB)
    for number in range(400):
        clock.now += 0.01
        database.save(stored(str(number), num_bytes=20_000), [f"item{number}"])
        assert database.load(str(number)) is not None
    assert database.load("0") is None
    kept = [number for number in range(400) if database.load(str(number))]
    assert len(kept) >= 25  # most of the room is used
    assert kept == list(range(400 - len(kept), 400))
    database.close()
    assert (tmp_path / "r.sqlite").stat().st_size <= MIB


def test_file_when_a_response_is_larger_than_it_then_it_is_refused_and_others_can_still_be_kept(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened(max_bytes=MIB)
    with pytest.raises(sqlite3.Error, match="full"):
        database.save(stored("large", num_bytes=2 * MIB), [])
    database.save(stored("small"), [])
    assert database.load("large") is None
    assert database.load("small") is not None


def test_conversation_when_room_is_made_for_its_next_response_then_it_goes_last(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database = opened(max_bytes=MIB)
    database.save(stored("first"), [])
    for number in range(200):
        clock.now += 0.01
        database.save(stored(str(number), num_bytes=20_000), [])
        if number % 10 == 0:
            database.save(stored(f"next{number}", "first" if number == 0 else f"next{number - 10}"), [])
    assert chain_ids(database, "next190")[0] == "first"


def test_response_when_begun_then_it_is_under_way_until_its_end_or_until_its_lease_runs_out(
    opened: Callable[..., ResponseDatabase], clock: Clock
) -> None:
    database, other = opened(), opened()
    for name in ("a", "b"):
        database.begin(stored(name), ["given"], ())
    clock.now += LEASE_S - 1
    assert database.progress.renew({"a"}) == set()
    clock.now += 1
    assert other.load("a") == replace(stored("a"), is_under_way=True)
    assert other.load("b") == replace(stored("b"), is_given_up=True)
    assert (other.progress.is_under_way("a"), other.progress.is_under_way("b")) == (True, False)
    for name in ("a", "b"):  # who comes back late may still say how it ended
        assert database.end(replace(stored(name), output="[1]"), [f"said by {name}"], ()).is_kept is True
        assert other.load(name) == replace(stored(name), output="[1]")
        assert other.holder(f"said by {name}") == name
    assert other.holder("given") is not None


def test_response_when_somebody_else_has_ended_it_then_its_maker_learns_of_it_and_changes_nothing(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database, other = opened(), opened()
    database.begin(stored("a"), [], ())
    assert other.end(replace(stored("a"), response='{"cancelled":1}'), [], ()).is_kept is True
    assert database.progress.renew({"a"}) == {"a"}
    database.change("a", '{"late":1}')
    assert database.end(replace(stored("a"), response='{"late":2}'), ["item"], ()).is_kept is False
    assert database.load("a") == replace(stored("a"), response='{"cancelled":1}')
    assert database.holder("item") is None


def test_response_when_it_is_deleted_while_it_is_under_way_then_nothing_of_it_comes_back(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened()
    database.begin(stored("a"), [], [EventChunk(0, b"x")])
    assert database.progress.events("a") == [EventChunk(0, b"x")]
    database.delete("a")
    assert database.progress.renew({"a"}) == {"a"}
    assert database.end(stored("a"), ["item"], [EventChunk(0, b"xy")]).is_kept is False
    assert (database.load("a"), database.holder("item"), database.progress.events("a")) == (None, None, [])


def test_events_when_they_are_kept_then_they_count_as_room_that_the_file_has(
    opened: Callable[..., ResponseDatabase], clock: Clock, tmp_path: Path
) -> None:
    database = opened(max_bytes=MIB)
    for number in range(100):
        clock.now += 0.01
        database.begin(stored(str(number)), [], [EventChunk(0, b"x")])
        assert database.end(stored(str(number)), [], [EventChunk(0, b"y" * 50_000)]).is_kept is True
    assert database.progress.events("99") == [EventChunk(0, b"y" * 50_000)]
    assert database.progress.events("0") == []
    database.close()
    assert (tmp_path / "r.sqlite").stat().st_size <= MIB


def test_file_when_an_earlier_version_made_it_then_what_it_lacks_is_added_and_that_version_can_go_on(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    opened().save(stored("old"), [])
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.executescript("DROP TABLE under_way; DROP TABLE events")
        database = opened()
        database.begin(stored("a", "old"), [], ())
        assert chain_ids(database, "a") == ["old", "a"]
        connection.execute("INSERT INTO responses VALUES ('by the old one', NULL, 2e6, '{}', '[]', '[]')")
        connection.commit()
    assert database.load("by the old one") is not None


def test_item_when_several_responses_hold_it_then_the_newest_is_found(
    opened: Callable[..., ResponseDatabase],
) -> None:
    database = opened()
    for name in ("a", "b"):
        database.save(stored(name), ["item", "item"])
    assert database.holder("item") == "b"


def test_response_when_deleted_then_its_text_is_not_in_the_file(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    database = opened()
    database.save(StoredResponse("a", None, '"secret words"', "[]", "[]"), [])
    database.delete("a")
    database.close()
    assert b"secret words" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_file_when_made_then_only_its_owner_may_read_it(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    opened().save(stored("a"), [])
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(os.listdir(tmp_path)) == 3  # SQLite keeps two beside it
    assert modes == {0o600}


def test_file_when_a_later_version_made_it_then_it_is_left_alone(
    opened: Callable[..., ResponseDatabase], tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "r.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(sqlite3.DatabaseError, match="format"):
        opened()


def test_file_when_many_make_it_and_write_at_once_then_nobody_fails(tmp_path: Path) -> None:
    def write(writer: int) -> None:
        path = tmp_path / "r.sqlite"
        with closing(ResponseDatabase(path, keep_s=KEEP_S, max_bytes=64 * MIB)) as database:
            for number in range(20):
                database.save(stored(f"{writer}-{number}"), [])
            assert all(database.load(f"{writer}-{number}") for number in range(20))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
