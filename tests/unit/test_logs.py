"""The size of the logs that the server's processes print to."""

from __future__ import annotations

from pathlib import Path

from gptoss_client.follow import LogReader
from gptoss_client.logs import bound_sizes


def test_bound_sizes_when_a_log_is_too_large_then_is_kept_as_1_and_its_writer_goes_on_at_the_beginning(
    tmp_path: Path,
) -> None:
    log, small = tmp_path / "triton.log", tmp_path / "adapter.log"
    small.write_bytes(b"y" * 50)
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        bound_sizes(tmp_path, 99)
        writer.write(b"next")

    assert log.read_bytes() == b"next"
    assert (tmp_path / "triton.log.1").read_bytes() == b"x" * 100
    assert small.stat().st_size == 50
    assert not (tmp_path / "adapter.log.1").exists()


def test_bound_sizes_when_there_is_no_room_for_a_copy_then_the_log_is_emptied_all_the_same(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_bytes(b"x" * 100)
    (tmp_path / "triton.log.1").symlink_to("/dev/full")

    bound_sizes(tmp_path, 99)

    assert log.stat().st_size == 0


def test_log_reader_when_logs_grow_and_are_emptied_then_gives_each_whole_line_once_with_its_process(
    tmp_path: Path,
) -> None:
    log = tmp_path / "triton.log"
    log.write_text("one\ntwo\nthree\n")
    reader = LogReader(tmp_path)

    first = list(reader.last_lines(2))
    with log.open("a") as writer:
        writer.write("four\nunfin")
    (tmp_path / "adapter.log").write_text("hello\n")
    second = list(reader.new_lines())
    with log.open("a") as writer:
        writer.write("ished\n")
    third = list(reader.new_lines())
    log.write_text("anew\n")

    assert first == ["triton     | two", "triton     | three"]
    assert second == ["adapter    | hello", "triton     | four"]
    assert third == ["triton     | unfinished"]
    assert list(reader.new_lines()) == ["triton     | anew"]
    assert list(reader.new_lines()) == []
