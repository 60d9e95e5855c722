"""What all documents on the wire have in common.

Stage: every hop between the adapter (or any Triton client) and the stubs.
Owns: how strictly a document is read.
Does not know: the documents.
"""

from __future__ import annotations

from typing import Final

from pydantic import ConfigDict

STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)
