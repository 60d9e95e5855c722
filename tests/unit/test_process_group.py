"""Processes that are remembered by their ids, and the groups that they lead."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil

from gptoss_client.process_group import CrashWatch, ProcessRecord, kill_group
from support.processes import wait_until

# starts a child for each line, tells its id, and waits for none of them
WITH_CHILDREN = """
import subprocess, sys
children = []
for line in sys.stdin:
    children.append(subprocess.Popen(["sleep", "60"]))
    print(children[-1].pid, flush=True)
"""


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


def test_crash_watch_when_a_child_crashes_then_it_is_lost_and_when_one_of_later_does_the_parent_has_seconds() -> None:
    command = [sys.executable, "-S", "-c", WITH_CHILDREN]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    record = ProcessRecord.of("server", parent.pid)
    asks, tells = parent.stdin, parent.stdout
    assert asks is not None
    assert tells is not None

    def child_of_now() -> int:
        asks.write("\n")
        asks.flush()
        return int(tells.readline())

    try:
        watch, first = CrashWatch(record), child_of_now()
        watch.begin_to_serve()
        later = child_of_now()
        os.kill(later, signal.SIGKILL)
        killed_s = time.monotonic()
        wait_until(lambda: watch.lost_child() == later)
        assert time.monotonic() - killed_s > 3.5
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: psutil.Process(first).status() == psutil.STATUS_ZOMBIE)
        fresh = CrashWatch(record)
        # an orderly end looks like that for a moment: it has to be seen twice
        assert [fresh.lost_child(), fresh.lost_child()] == [None, min(first, later)]
        wait_until(lambda: watch.lost_child() == min(first, later), timeout_s=1.0)
    finally:
        kill_group(record)
        parent.communicate()
