"""Processes that are remembered by their ids, and the groups that they lead."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time

from gptoss_client.process_group import ProcessRecord, kill_group


def test_process_record_when_the_id_belongs_to_another_process_then_it_is_not_found() -> None:
    own = ProcessRecord.of("tests", os.getpid())
    stranger = ProcessRecord("tests", own.pid, own.created_at - 3600)

    assert own.find() is not None
    assert stranger.find() is None


def test_kill_group_when_the_id_has_gone_to_the_leader_of_another_group_then_that_one_lives_on() -> None:
    with subprocess.Popen(("sleep", "60"), start_new_session=True) as stranger:
        try:
            now = ProcessRecord.of("adapter", stranger.pid)
            # what is remembered of a process that had the id an hour before, in the same boot
            before = dataclasses.replace(now, created_at=now.created_at - 3600, ticks=now.ticks - 360_000)

            assert kill_group(before) == 0
            assert stranger.poll() is None
            assert kill_group(now) == 1
        finally:
            stranger.kill()


def test_kill_group_when_nothing_of_it_is_left_then_kills_nothing() -> None:
    assert kill_group(ProcessRecord("gone", 2**22 - 1, time.time())) == 0
