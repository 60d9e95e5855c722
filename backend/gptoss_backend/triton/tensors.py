"""The contract's tensors in and out of a stub, without torch.

Stage: the edge of every stub.
Owns: how bytes and token ids become Triton tensors and back.
Does not know: what the tensors mean.

Everything moves through DLPack. The stub of tritonserver 24.10 was built against NumPy 1: under NumPy 2 the arrays it
makes (`as_numpy`) have wrong strides, and it misreads those given to `Tensor(name, array)`. Tensors of length 0 pass
both ways.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from gptoss_backend.contract import TensorSpec

_set_capsule_name: Final = ctypes.pythonapi.PyCapsule_SetName
_set_capsule_name.argtypes = (ctypes.py_object, ctypes.c_char_p)
_set_capsule_name.restype = ctypes.c_int
_CONSUMED: Final = b"used_dltensor"  # kept here: a capsule only points to its name


def read_ids(request: pb_utils.InferenceRequest, spec: TensorSpec) -> array[int]:
    """Return an INT32 input, copied."""
    return array("i", _read(request, spec).tobytes())


def read_bytes(request: pb_utils.InferenceRequest, spec: TensorSpec) -> bytes:
    """Return a UINT8 input, copied."""
    return _read(request, spec).tobytes()


def ids_tensor(spec: TensorSpec, ids: Sequence[int]) -> pb_utils.Tensor:
    """Return an INT32 output of shape [len(ids)]."""
    return _tensor(spec, np.array(ids, dtype=np.int32))


def bytes_tensor(spec: TensorSpec, raw: bytes) -> pb_utils.Tensor:
    """Return a UINT8 output of shape [len(raw)]."""
    return _tensor(spec, np.frombuffer(bytearray(raw), dtype=np.uint8))  # NumPy exports no read-only memory


def _read(request: pb_utils.InferenceRequest, spec: TensorSpec) -> npt.NDArray[Any]:
    return np.from_dlpack(pb_utils.get_input_tensor_by_name(request, spec.name))


def _tensor(spec: TensorSpec, numbers: npt.NDArray[Any]) -> pb_utils.Tensor:
    """Hand the array's memory over; the tensor frees it."""
    capsule = numbers.__dlpack__()
    tensor = pb_utils.Tensor.from_dlpack(spec.name, capsule)
    # the stub names a consumed capsule "used_dlpack", NumPy looks for "used_dltensor" and would complain on stderr
    _set_capsule_name(capsule, _CONSUMED)
    return tensor
