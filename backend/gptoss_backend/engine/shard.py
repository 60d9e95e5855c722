"""Which part of a model one device holds.

Owns: `Shard`: a range of layers and, of each of them, a part of the heads, of the experts' inner dimension and of the
vocabulary. Does not know: devices, checkpoints, who holds the other parts.

A whole model is the shard of all layers and of the only part. Pipeline placement divides the layers, tensor placement
all that is inside them (Megatron-LM, https://arxiv.org/abs/1909.08053): the first matrix of each pair by its outputs,
the second by its inputs, so that one sum over the parts after each pair is all that they exchange.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gptoss_backend.engine.config import BLOCK_VALUES, ModelConfig
from gptoss_backend.engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class Shard:
    """A device's part of a model."""

    whole: ModelConfig
    layers: range
    part: int = 0
    num_parts: int = 1

    def __post_init__(self) -> None:
        """Raise EngineError where the model cannot be divided so."""
        config, count = self.whole, self.num_parts
        if config.num_kv_heads % count or config.num_heads % count:
            raise EngineError(
                f"a model with {config.num_kv_heads} key-value heads cannot be divided over {count} devices: "
                "their number must divide that of the heads"
            )
        if self._num_inner_units < count:
            raise EngineError(
                f"experts with {config.intermediate_size} inner channels cannot be divided over {count} devices"
            )

    @classmethod
    def of_all(cls, config: ModelConfig) -> Shard:
        """Return the shard that is the whole model."""
        return cls(config, range(config.num_layers))

    @property
    def is_whole(self) -> bool:
        """True for the shard of a model on one device."""
        return self.num_parts == 1 and len(self.layers) == self.whole.num_layers

    @property
    def all_parts(self) -> tuple[Shard, ...]:
        """This part of its layers and all others."""
        return tuple(replace(self, part=part) for part in range(self.num_parts))

    @property
    def is_first(self) -> bool:
        """True where the token embedding is looked up."""
        return self.layers.start == 0

    @property
    def is_last(self) -> bool:
        """True where logits come out."""
        return self.layers.stop == self.whole.num_layers

    @property
    def is_first_part(self) -> bool:
        """True for the one part that adds biases: a sum over all parts must hold each of them once."""
        return self.part == 0

    @property
    def has_output(self) -> bool:
        """True where a step's tokens come out: of the last layers, the first part."""
        return self.is_last and self.is_first_part

    @property
    def heads(self) -> range:
        """Query heads."""
        return _even(self.whole.num_heads, self.part, self.num_parts)

    @property
    def kv_heads(self) -> range:
        """Key-value heads, those of the query heads."""
        return _even(self.whole.num_kv_heads, self.part, self.num_parts)

    @property
    def vocab(self) -> range:
        """Token ids whose logits this shard computes."""
        return _even(self.whole.vocab_size, self.part, self.num_parts)

    def inner(self, layer: int) -> range:
        """Channels between the experts' two matrices, in whole MXFP4 blocks where there are such.

        What does not divide evenly goes to other parts from layer to layer, so that no device holds more in the end.
        """
        unit = self._inner_unit
        units = _even(self._num_inner_units, (self.part + layer) % self.num_parts, self.num_parts)
        return range(units.start * unit, units.stop * unit)

    def local_config(self) -> ModelConfig:
        """Return the numbers of what is here: layers and heads of this shard only; the experts' width stays whole."""
        return replace(
            self.whole,
            num_layers=len(self.layers),
            layer_types=tuple(self.whole.layer_types[i] for i in self.layers),
            num_heads=len(self.heads),
            num_kv_heads=len(self.kv_heads),
        )

    @property
    def _inner_unit(self) -> int:
        return BLOCK_VALUES if self.whole.intermediate_size % BLOCK_VALUES == 0 else 1

    @property
    def _num_inner_units(self) -> int:
        return self.whole.intermediate_size // self._inner_unit


def _even(count: int, part: int, num_parts: int) -> range:
    """Return the part's range of `count` things, as even as can be."""
    return range(count * part // num_parts, count * (part + 1) // num_parts)
