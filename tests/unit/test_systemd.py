"""The unit of systemd: that it is one, waits long enough, and installs as its first lines say."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gptoss_backend.settings import PROJECT_ROOT, ServerSettings
from gptoss_client.errors import INTERRUPTED, UsageError

UNIT = PROJECT_ROOT / "configs" / "gptoss.service"


def options(text: str) -> dict[str, str]:
    """Return the unit's options; of one that is there several times, the last."""
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def installed(folder: Path, user: str) -> str:
    """Return the unit as its header's first line writes it for this folder and user."""
    text = UNIT.read_text(encoding="utf-8")
    found = re.search(r'^#   (sed ".+") configs/gptoss.service \|', text, re.MULTILINE)
    assert found is not None
    run = subprocess.run(
        ("sh", "-c", f"cd {folder} && {found[1]} {UNIT}"),
        env={"PATH": "/usr/bin:/bin", "USER": user},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout


def test_unit_when_stopped_then_the_supervisor_alone_is_asked_and_has_time_for_the_adapter_and_for_triton() -> None:
    unit = options(UNIT.read_text(encoding="utf-8"))

    assert unit["KillMode"] == "mixed"
    assert int(unit["TimeoutStopSec"]) > 2 * ServerSettings().shutdown_timeout_s


def test_unit_when_the_server_ends_then_it_is_started_again_unless_it_was_asked_or_would_end_the_same_way() -> None:
    unit = options(UNIT.read_text(encoding="utf-8"))

    assert unit["Restart"] == "on-failure"
    assert unit["SuccessExitStatus"] == str(INTERRUPTED)
    assert unit["RestartPreventExitStatus"] == str(UsageError.exit_status)


def test_unit_when_the_machine_boots_then_the_network_and_what_is_mounted_over_it_are_there_first() -> None:
    unit = options(UNIT.read_text(encoding="utf-8"))

    assert {"network-online.target", "remote-fs.target"} <= set(unit["After"].split())


def test_unit_when_hardened_then_nothing_hides_the_cards_or_forbids_compiled_kernels() -> None:
    unit = options(UNIT.read_text(encoding="utf-8"))

    assert not {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "MemoryDenyWriteExecute"} & set(unit)
    assert unit["NoNewPrivileges"] == "yes"


def test_unit_when_installed_as_it_says_then_systemd_finds_no_fault_in_it(tmp_path: Path) -> None:
    systemd_analyze = shutil.which("systemd-analyze")
    if systemd_analyze is None:
        pytest.skip("systemd is not on this machine")
    program = tmp_path / ".venv" / "bin" / "gptoss"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    unit = tmp_path / "gptoss.service"
    unit.write_text(installed(tmp_path, "root"), encoding="utf-8")

    found = subprocess.run(
        (systemd_analyze, "verify", "--man=no", str(unit)), capture_output=True, text=True, timeout=60, check=False
    )

    told = found.stdout + found.stderr
    assert (found.returncode, "gptoss.service" in told) == (0, False), told
    written = options(unit.read_text(encoding="utf-8"))
    assert (written["WorkingDirectory"], written["User"]) == (str(tmp_path), "root")
    assert written["ExecStart"] == f"{program} serve"
