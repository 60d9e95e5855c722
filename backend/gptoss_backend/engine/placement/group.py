"""How devices exchange tensors, by torch.distributed: NCCL between GPUs, gloo between CPUs.

Owns: the process group, the sums and joins of tensor placement, the hand-over of pipeline placement.
Does not know: what the tensors mean, who lives.
"""

from __future__ import annotations

import fcntl
import logging
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from gptoss_backend.environment import bind_collectives_to, settle_collectives

logger = logging.getLogger(__name__)

# torch 2.13 gives it another name, and warns of the old one
_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

_SIOCGIFADDR = 0x8915  # linux/sockios.h: an interface's address
_COMPILING_TIMEOUT_S: Final = 3600.0
_LEAVE_TIMEOUT_S: Final = 2.0
_LOOK_PERIOD_S: Final = 5e-5  # the next step has been launched: to notice late costs the devices nothing


def open_store(host: str, port: int, *, is_master: bool, timeout_s: float) -> TCPStore:
    """Return the place where ranks find each other; the master's process keeps it, at `host` only.

    Raises DistNetworkError, the master OSError.
    """
    timeout = timedelta(seconds=timeout_s)
    if not is_master:
        return TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
    # left to itself, it would listen on every address of this machine, and it knows no secret
    with socket.create_server((host, port)) as bound:
        port, descriptor = bound.getsockname()[1], bound.detach()
    return TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=timeout, master_listen_fd=descriptor)


def join_group(
    store: TCPStore, rank: int, world_size: int, device: torch.device, *, address: str, timeout_s: float
) -> None:
    """Become a rank of the process group; blocks until all have.

    address: of this host, as the others reach it.
    """
    if interface := _interface_of(address):
        bind_collectives_to(interface)
    settle_collectives()
    dist.init_process_group(
        backend="nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore("group", store),
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )


@contextmanager
def unhurried(timeout_s: float) -> Iterator[None]:
    """Let ranks wait for one another while some compile kernels, which others may have from an earlier start.

    timeout_s: of the group, from the end on.
    """
    set_timeout = dist.distributed_c10d._set_pg_timeout  # there is no public way
    set_timeout(timedelta(seconds=max(timeout_s, _COMPILING_TIMEOUT_S)))
    try:
        yield
    finally:
        set_timeout(timedelta(seconds=timeout_s))


def leave_group(let_go: Callable[[], None] | None = None) -> None:
    """Give up the process group. Blocks for two seconds at most, never raises.

    Where other ranks are gone NCCL may wait for them for ever, or fail; the process, which ends soon, takes the rest.
    let_go: destroys what was recorded with the group's sums, for which NCCL would wait.
    """
    if not dist.is_initialized():
        return
    leaving = threading.Thread(target=_destroy_group, args=(let_go,), name="leave-group", daemon=True)
    leaving.start()
    leaving.join(_LEAVE_TIMEOUT_S)
    if leaving.is_alive():
        logger.warning("the process group does not end within %g s: left to the process's end", _LEAVE_TIMEOUT_S)


def _destroy_group(let_go: Callable[[], None] | None) -> None:
    try:
        if let_go is not None:
            let_go()
        dist.destroy_process_group()
    except Exception as error:  # noqa: BLE001 (whatever it is, there is nothing left to save)
        logger.warning("the process group ended with an error: %s", error)


class PartsLost(Exception):  # noqa: N818 (what it says of them)
    """What the parts of a layer compute together does not come to an end."""


class TensorGroup:
    """The parts of each layer. All ranks call the same methods in the same order."""

    def __init__(self, widths: Sequence[int], timeout_s: float, is_over: Callable[[], bool]) -> None:
        """widths: how much of the vocabulary each part has. timeout_s: the longest that `wait` waits.

        is_over: whether the ranks are known to be at an end.
        """
        self._widths = widths
        self._timeout_s = timeout_s
        self._is_over = is_over

    def add_up(self, partial: Tensor) -> Tensor:
        """Return the sum over the parts, in place."""
        partial = partial.contiguous()
        dist.all_reduce(partial)
        return partial

    def join(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the whole vocabulary's, [n, vocab], on every rank."""
        missing = max(self._widths) - logits.shape[1]
        mine = F.pad(logits, (0, missing)) if missing else logits.contiguous()
        gathered = mine.new_empty(len(self._widths) * len(mine), mine.shape[1])
        _gather(gathered, mine)
        parts = gathered.view(len(self._widths), *mine.shape)
        kept = [part[:, :width] for part, width in zip(parts, self._widths, strict=True)]
        return torch.cat(kept, dim=1) if out is None else torch.cat(kept, dim=1, out=out)

    def wait(self, done: torch.cuda.Event) -> None:
        """Wait for what is computed together, but not for ranks that are gone: a replayed sum has no time limit.

        Raises PartsLost.
        """
        deadline_s = time.monotonic() + self._timeout_s
        while not done.query():  # type: ignore[no-untyped-call]
            if self._is_over():
                raise PartsLost("a rank is gone")
            if time.monotonic() > deadline_s:
                raise PartsLost(f"they did not finish a step in {self._timeout_s:g} s")
            time.sleep(_LOOK_PERIOD_S)


class StageLinks:
    """The two neighbours of a pipeline's stage, and the way from the last one back to the first."""

    def __init__(self) -> None:
        self._rank = dist.get_rank()
        self._last = dist.get_world_size() - 1
        # of its own: between two GPUs of one group, what is sent back would wait behind what is sent on, for ever
        self._back = dist.new_group([0, self._last])
        self._underway: deque[tuple[dist.Work | None, Tensor]] = deque()  # the latest sent

    def pass_on(self, hidden: Tensor) -> None:
        """Send a copy of a residual stream to the next stage, without waiting for it to be taken."""
        # no more steps than stages are under way: those before have been taken, but gloo knows so only once waited for
        while len(self._underway) > self._last:
            work, _ = self._underway.popleft()
            if work is not None:
                work.wait()
        sent = hidden.clone(memory_format=torch.contiguous_format)
        self._underway.append((dist.isend(sent, self._rank + 1), sent))

    def take_over(self, into: Tensor) -> Tensor:
        """Wait for the residual stream of the stage before; returns `into`, filled."""
        dist.recv(into, self._rank - 1)
        return into

    def send_back(self, logits: Tensor) -> None:
        """Send logits from the last stage to the first."""
        dist.send(logits.contiguous(), 0, group=self._back)

    def receive_back(self, into: Tensor) -> Tensor:
        """Wait for logits at the first stage; returns `into`, filled."""
        dist.recv(into, self._last, group=self._back)
        return into


def address_towards(host: str, port: int) -> str:
    """Return this machine's address as `host` sees it. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        address: str = probe.getsockname()[0]
        return address


def _interface_of(address: str) -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has none
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
