"""What is wrong with a chat.

Stage: 3 prompt.
Owns: the one error that a caller of this room sees.
Does not know: who is told.
"""

from __future__ import annotations


class PromptError(ValueError):
    """A request that no prompt can be made of. The message is one sentence that names the part at fault."""
