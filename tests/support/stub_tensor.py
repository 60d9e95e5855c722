"""A stand-in for the tensor class that Triton's stub process provides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class Capsule:
    """A bare DLPack capsule, as NumPy takes one."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __dlpack__(self, **_: object) -> object:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


@dataclass
class Tensor:
    """A named array, made from DLPack as the stub makes its own."""

    name: str
    array: np.ndarray

    @classmethod
    def from_dlpack(cls, name: str, capsule: object) -> Tensor:
        return cls(name, np.from_dlpack(Capsule(capsule)).copy())
