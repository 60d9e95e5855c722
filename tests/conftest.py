"""How kernels in the Triton language run in the tests: on the GPU where there is one, else in Triton's interpreter.

Triton decides at its first import, which any library may trigger, so the choice is made before all tests.
"""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
