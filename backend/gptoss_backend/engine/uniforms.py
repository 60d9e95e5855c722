"""A number in [0, 1) for each token of an answer.

Stage 5 of a request: step. Owns: the generator. Does not know: what is drawn by its numbers.

A number is a function of the seed and of the token's place alone, so it is the same however the answer is computed:
looked at once more after a guess that did not stand, computed again after a preemption, launched ahead.
The generator is SplitMix64 (Steele, Lea, Flood 2014, https://doi.org/10.1145/2660193.2660195), entered at any place.
"""

from __future__ import annotations

_WORD = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15


class UniformNumbers:
    """Those of one answer."""

    def __init__(self, seed: int) -> None:
        """seed: its lowest 64 bits count."""
        # mixed once before: the numbers of a seed and of the next one have nothing in common
        self._start = _mix(seed & _WORD)

    def at(self, place: int) -> float:
        """Return the number of the answer's token at `place`, from 0 on."""
        return (_mix((self._start + (place + 1) * _GAMMA) & _WORD) >> 11) * 2.0**-53


def _mix(word: int) -> int:
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _WORD
    word = (word ^ word >> 27) * 0x94D049BB133111EB & _WORD
    return word ^ word >> 31
