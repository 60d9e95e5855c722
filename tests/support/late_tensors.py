"""Tensors of a GPU that is not there: they lie on the host, and what is computed of them waits in line.

Owns: the line, tensors on the device, which operations of torch wait for it. Does not know: torch.cuda, Triton.
"""

# ruff: noqa: ANN401 (operations of torch take and give anything)
from __future__ import annotations

import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE: Final = torch.device("cuda:0")
_ANY_NUMBER: Final = 113
"""What integers hold before anybody has written them: of a small vocabulary a token like others"""
_NOT_A_NUMBER: Final = 0x7F
"""Of eight bits"""

_aten = torch.ops.aten
_PINNING: Final = (_aten.pin_memory.default, _aten._pin_memory.default)
_TAKING: Final = (
    *(_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default),
    *(_aten.new_empty.default, _aten.new_empty_strided.default),
)
_TELLING: Final = (
    *(_aten._local_scalar_dense.default, _aten.equal.default, _aten.nonzero.default, _aten.masked_select.default),
    *(_aten._unique2.default, _aten.bincount.default),
)
"""What gives the host numbers, or tensors of a size that only the device knows"""
_LOOKING_UP: Final = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)

Work = Callable[[], object]


class Line:
    """What a device has been given to do, and how far it has come."""

    def __init__(self) -> None:
        self.num_given = 0
        self.waits: list[str] = []
        """Which of our functions has waited for it, each time"""
        self.may_wait = True
        self._num_done = 0
        self._ahead = deque[Work]()
        self._recorded: list[tuple[str, Work]] | None = None
        self._is_rehearsed = False

    def give(self, name: str, work: Work) -> None:
        """Put work at its end; name: for those who look at what was recorded."""
        if self._recorded is not None:
            self._recorded.append((name, work))
        elif not self._is_rehearsed:
            self._ahead.append(work)
            self.num_given += 1

    @property
    def is_recording(self) -> bool:
        """Whether work is noted rather than done."""
        return self._recorded is not None

    def wait(self, place: int | None = None) -> None:
        """Let the device do all of its work, or the first `place` pieces. Raises RuntimeError where nobody may wait."""
        if self.is_recording:
            raise RuntimeError("operation not permitted when stream is capturing")
        if not self.may_wait:
            raise RuntimeError(f"{_our_function()} waits for the device")
        self.waits.append(_our_function())
        self.do(place)

    def do(self, place: int | None = None) -> None:
        """Let the device do as much without anybody's waiting. What fails is told of for ever, as CUDA does."""
        with _disable_current_modes(), torch.inference_mode():
            while self._ahead and (place is None or self._num_done < place):
                self._ahead[0]()
                self._ahead.popleft()
                self._num_done += 1

    def has_done(self, place: int) -> bool:
        """Say whether the device has done the first `place` pieces."""
        return self._num_done >= place

    @contextmanager
    def recording(self) -> Iterator[list[tuple[str, Work]]]:
        """Note work rather than do it."""
        self._recorded = recorded = list[tuple[str, Work]]()
        try:
            yield recorded
        finally:
            self._recorded = None

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """Pass work over, as what is done before a recording so that kernels are compiled."""
        self._is_rehearsed = True
        try:
            yield
        finally:
            self._is_rehearsed = False


class OnDevice(Tensor):
    """A tensor on the device that is not there; `here` it is."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[OnDevice], here: Tensor) -> OnDevice:
        """Take memory of the host's for the device's."""
        layout = here.size(), here.stride(), here.storage_offset()
        with torch.inference_mode(mode=False):  # which views of it would have to share
            there: OnDevice = Tensor._make_wrapper_subclass(cls, *layout, dtype=here.dtype, device=DEVICE)  # type: ignore[attr-defined]
        there.here = here
        return there

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: object) -> Any:
        """Refuse, since `LateMode` comes first where it is on."""
        raise RuntimeError(f"{func} of a tensor on a device that is gone")

    def tolist(self) -> Any:
        """Wait for the device, as torch does."""
        return self.cpu().tolist()

    def data_ptr(self) -> int:
        """Return where it is on the host."""
        return self.here.data_ptr()

    def __repr__(self) -> str:
        """Show no numbers, which would be to wait for them."""
        return f"OnDevice({list(self.shape)}, {self.dtype})"


def here(tensor: Tensor) -> Tensor:
    """Return the host's memory of a tensor, wherever that is."""
    return tensor.here if isinstance(tensor, OnDevice) else tensor


class Pinned:
    """The host's memory that the device can read and write by itself."""

    def __init__(self) -> None:
        self._storages = weakref.WeakValueDictionary[int, torch.UntypedStorage]()

    def pin(self, tensor: Tensor) -> Tensor:
        """Return the tensor, its memory pinned for as long as there is a tensor in it that came from here."""
        tensor._pinned_storage = storage = tensor.untyped_storage()  # type: ignore[attr-defined]
        self._storages[storage._cdata] = storage
        return tensor

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages


class LateMode(TorchDispatchMode):
    """Gives to the device what is asked of it, in one thread."""

    def __init__(self, line: Line, pinned: Pinned) -> None:
        super().__init__()
        self._line = line
        self._pinned = pinned

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute on the host what is the host's, see to all else that the device gets it."""
        kwargs = dict(kwargs or {})
        is_pinned, device = kwargs.pop("pin_memory", False), kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func in _PINNING:
            return self._pinned.pin(args[0].clone())
        is_the_hosts = device is None or torch.device(device).type != "cuda"
        if is_the_hosts and not any(isinstance(tensor, OnDevice) for tensor in tensors):
            made = func(*args, **kwargs)
            return self._pinned.pin(_spoil(made)) if is_pinned else made
        if func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        if func is _aten._to_copy.default:
            return self._move(args[0], **kwargs)
        if func is _aten.copy_.default:
            return self._copy(*args, **kwargs)
        if any(tensor.dim() for tensor in tensors if not isinstance(tensor, OnDevice)):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but some are the host's")
        return self._compute(func, args, kwargs)

    def _move(
        self,
        tensor: Tensor,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
        **_: object,
    ) -> Tensor:
        made = torch.empty_like(here(tensor), dtype=dtype or tensor.dtype)
        if torch.device(device or tensor.device).type == "cuda":
            return self._copy(OnDevice(made), tensor, non_blocking)
        return self._copy(self._pinned.pin(made) if non_blocking else made, tensor, non_blocking)

    def _copy(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        to, of = here(target), here(source)
        if target.device == source.device:
            self._line.give("copy", lambda: to.copy_(of))
            return target
        if self._line.is_recording:  # CUDA would read or write the host's memory again at each replay
            raise RuntimeError("a copy between host and device is recorded")
        # for another dtype or order torch makes a tensor on the host first, and that is not pinned
        is_plain = target.dtype == source.dtype and target.is_contiguous() and source.is_contiguous()
        goes_by_itself = non_blocking and is_plain
        if goes_by_itself and (of if isinstance(target, OnDevice) else to) in self._pinned:
            self._line.give("copy between host and device", lambda: to.copy_(of))
            return target
        self._line.wait()
        with _disable_current_modes(), torch.inference_mode():
            to.copy_(of)
        return target

    def _compute(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        goes_to_the_host = kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "cuda"
        if "device" in kwargs:
            kwargs["device"] = "cpu"
        args_here, kwargs_here = tree_map_only(OnDevice, here, (args, kwargs))
        returns = func._schema.returns
        with _disable_current_modes():
            if func in _TELLING or (func in _LOOKING_UP and any(map(_is_a_mask, args[1]))):
                self._line.wait()
                return _there(func(*args_here, **kwargs_here))
            if returns and all(each.alias_info and not each.alias_info.is_write for each in returns):
                return _there(func(*args_here, **kwargs_here))  # views, of which nothing has to be computed
            if all(each.alias_info for each in returns):
                self._line.give(str(func), lambda: func(*args_here, **kwargs_here))
                return _written_by(func, args, kwargs)
            made = _room_for(func, args, kwargs)
        if goes_to_the_host:  # as memory, of which nothing is computed
            return made
        parts = tree_leaves(made)

        def compute() -> None:
            if func in _TAKING:
                _spoil(made)
                return
            for part, computed in zip(parts, tree_leaves(func(*args_here, **kwargs_here)), strict=True):
                part.copy_(computed)

        self._line.give(str(func), compute)
        return _there(made)


def _is_a_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in {torch.bool, torch.uint8}


def _there(found: Any) -> Any:
    return tree_map_only(Tensor, OnDevice, found)


def _room_for(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return memory for what an operation gives, by what torch says of its shapes."""

    def shape_of(tensor: OnDevice) -> Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="meta")

    def room_of(shape: Tensor) -> Tensor:
        return torch.empty_strided(shape.size(), shape.stride(), dtype=shape.dtype)

    args, kwargs = tree_map_only(OnDevice, shape_of, (args, kwargs))
    if "device" in kwargs:
        kwargs["device"] = "meta"
    return tree_map_only(Tensor, room_of, func(*args, **kwargs))


def _written_by(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the arguments that an operation writes to, which are what it returns."""
    named = dict(zip((each.name for each in func._schema.arguments), args, strict=False)) | kwargs
    written = [named[each.name] for each in func._schema.arguments if each.alias_info and each.alias_info.is_write]
    return written[0] if len(written) == 1 else tuple(written)


def _spoil(tensor: Tensor) -> Tensor:
    """Fill memory with what nobody means, and return it."""
    if not tensor.dtype.is_floating_point:
        return tensor.fill_(_ANY_NUMBER)
    if tensor.dtype.itemsize == 1:
        tensor.view(torch.uint8).fill_(_NOT_A_NUMBER)
        return tensor
    return tensor.fill_(float("nan"))


def _our_function() -> str:
    """Return the innermost function of the backend that runs."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        _, _, file = frame.f_code.co_filename.partition("/gptoss_backend/")
        if file:
            return f"{file}:{frame.f_code.co_name}"
    return "a test"
