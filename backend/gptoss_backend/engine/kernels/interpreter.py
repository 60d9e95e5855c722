"""Whether this process interprets the kernels, which is how they are tested where there is no GPU.

Owns: `IS_INTERPRETED`. Triton takes it from TRITON_INTERPRET as kernels are defined, and so does this.
"""

from __future__ import annotations

from typing import Final

import triton

IS_INTERPRETED: Final = bool(triton.knobs.runtime.interpret)
"""The interpreter would multiply bfloat16's bits as integers: what a tensor core takes as they are is widened for it"""
