"""Grammars small enough to read: a list of sets of tokens, one for each place in the answer."""

from __future__ import annotations

import torch


class ToyMask:
    """Lets the token at place i be one of `places[i]`, any where that is None; past the end it is finished."""

    def __init__(self, places: list[set[int] | None]) -> None:
        self.places = places
        self.accepted: list[int] = []

    @property
    def num_tokens(self) -> int:
        """As few as its sets take."""
        return 1 + max((token for allowed in self.places for token in allowed or ()), default=0)

    @property
    def is_finished(self) -> bool:
        """True past the last place."""
        return len(self.accepted) >= len(self.places)

    def fork(self) -> ToyMask:
        """Return another at the same place."""
        fork = ToyMask(self.places)
        fork.accepted = list(self.accepted)
        return fork

    def fill(self, bits: torch.Tensor) -> bool:
        """Write this place's set."""
        allowed = self.places[len(self.accepted)]
        if allowed is None:
            return False
        words = bits.numpy().view("uint32")
        words[:] = 0
        for token in allowed:
            words[token // 32] |= 1 << (token % 32)
        return True

    def accept(self, token: int) -> None:
        """Go to the next place; a token that was not allowed is an error."""
        allowed = self.places[len(self.accepted)]
        if allowed is not None and token not in allowed:
            raise ValueError(f"token {token} is not allowed here")
        self.accepted.append(token)
