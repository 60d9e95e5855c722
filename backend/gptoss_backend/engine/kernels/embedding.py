"""Which tokens a step embeds, and rows of an embedding that stays in the host's memory, looked up by the device.

Owns: `take_chosen`, `look_up`. The torch references are `torch.where` and `torch.nn.functional.embedding`.

Which tokens these are only the device may know: they are what the step before chose. So the device puts them in their
places (of a recorded step in `step_setup.py`), and reads the host's pinned memory itself, a few kilobytes a token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


def take_chosen(token_ids: Tensor, chosen: Tensor) -> None:
    """Put what was chosen where it was awaited, in place: of `token_ids` [n] int64, -1 - i stands for chosen[i].

    chosen: [most] int64. Both are on one device, contiguous.
    """
    with torch.cuda.device_of(token_ids):  # type: ignore[no-untyped-call]
        _take_chosen[(triton.cdiv(len(token_ids), _BLOCK),)](token_ids, chosen, len(token_ids), BLOCK=_BLOCK)


def look_up(table: Tensor, token_ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the rows of `token_ids` [n] int64 as [n, hidden] in `dtype`, on their device.

    table: [vocab, hidden], contiguous; in pinned memory where the ids are on a GPU.
    """
    hidden = table.shape[1]
    rows = torch.empty(len(token_ids), hidden, dtype=dtype, device=token_ids.device)
    _look_up[(len(token_ids), triton.cdiv(hidden, _BLOCK))](table, token_ids, rows, hidden, BLOCK=_BLOCK)
    return rows


@triton.jit(do_not_specialize=["size"])  # else some number of tokens would be compiled for amid service
def _take_chosen(token_ids: tl.tensor, chosen: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr) -> None:
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(token_ids + place, mask=place < size, other=0)
    taken = tl.load(chosen + (-1 - token), mask=token < 0, other=0)
    tl.store(token_ids + place, taken, mask=token < 0)


@triton.jit
def _look_up(table: tl.tensor, token_ids: tl.tensor, rows: tl.tensor, hidden: tl.tensor, BLOCK: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < hidden
    values = tl.load(table + tl.load(token_ids + row) * hidden + column, mask=inside)
    tl.store(rows + row * hidden + column, values.to(rows.dtype.element_ty), mask=inside)
