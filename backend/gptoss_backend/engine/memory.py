"""What the host is: its processor, and how much memory there is (cgroup limits counted), or on a GPU.

Owns: the readings. Does not know: what the memory is for.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import torch

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")
_NO_LIMIT = 2**62


def available_bytes(device: torch.device) -> int:
    """Return the bytes that can still be taken on `device`."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_host_available(), cgroup_available(_CGROUPS, _OWN_CGROUPS))


def cgroup_available(cgroups: Path, own_cgroups: Path) -> int:
    """Return what this process's control group and those above it still allow, whether version 1 or 2.

    cgroups: where they are mounted. own_cgroups: a file of lines "id:controllers:path". A container sees its own group
    at the mount itself and may be told a path that does not exist there.
    """
    try:
        lines = own_cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = ["0::/"]
    least = _NO_LIMIT
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            names = ("memory.max", "memory.current", "inactive_file")
            least = min(least, _tightest(cgroups, path, *names))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            least = min(least, _tightest(cgroups / "memory", path, *names))
    return least


def _tightest(mount: Path, path: str, limit: str, used: str, reclaimable: str) -> int:
    group = PurePosixPath(path.lstrip("/"))
    return min(_left_in(mount / level, limit, used, reclaimable) for level in (group, *group.parents))


def _left_in(group: Path, limit: str, used: str, reclaimable: str) -> int:
    """Return what one group still allows. File pages that nobody uses count as free: a checkpoint just read is such."""
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        taken = int((group / used).read_text(encoding="ascii"))
        fields = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return _NO_LIMIT
    if most == "max":
        return _NO_LIMIT
    return max(int(most) - taken + int(fields.get(reclaimable, 0)), 0)


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the processor calls itself. platform.processor() would start a process to find out less."""
    for line in cpuinfo.read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "CPU"


def _host_available() -> int:
    for line in _MEMINFO.read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return _NO_LIMIT
