"""A trained model ⇄ the one small file that is shipped.

Owns: the file's tensors, written and read back: layers as a published checkpoint names and packs them, rows only of the
known tokens.
Does not know: how it is unpacked (trained_checkpoint.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptoss_backend.demo.trained_checkpoint import (
    KNOWN,
    KNOWN_OUTPUT_ROWS,
    KNOWN_ROWS,
    TRAIT_OUTPUT_VECTORS,
    TRAIT_VECTORS,
)
from gptoss_backend.demo.training.model import TrainedLayer, TrainedModel
from gptoss_backend.engine.mxfp4 import pack_mxfp4, unpack_mxfp4


def export(model: TrainedModel, path: Path) -> None:
    """Write the file, or nothing."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in _tensors(model)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def known_of(path: Path) -> Tensor:
    """Return the ids of the tokens that a shipped file has rows of, [num_known]."""
    return load_file(path)[KNOWN].long()


@torch.no_grad()
def restore(model: TrainedModel, path: Path) -> None:
    """Set the model's parameters to a shipped file's, in place; its known tokens must be the file's."""
    tensors = load_file(path)
    model.known_rows.copy_(tensors[KNOWN_ROWS])
    model.known_output_rows.copy_(tensors[KNOWN_OUTPUT_ROWS])
    model.trait_vectors.copy_(tensors[TRAIT_VECTORS])
    model.trait_output_vectors.copy_(tensors[TRAIT_OUTPUT_VECTORS])
    model.norm.copy_(tensors["model.norm.weight"])
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, TrainedLayer)  # noqa: S101 (a ModuleList's items have no type)
        prefix = f"model.layers.{index}"
        for name, parameter in _plain(layer).items():
            parameter.copy_(tensors[f"{prefix}.{name}"])
        for name, matrices in _packed(layer).items():
            blocks, scales = (tensors[f"{prefix}.mlp.experts.{name}_{part}"] for part in ("blocks", "scales"))
            matrices.copy_(unpack_mxfp4(blocks, scales, torch.float32))


def _tensors(model: TrainedModel) -> Iterator[tuple[str, Tensor]]:
    yield KNOWN, model.known.int()
    yield KNOWN_ROWS, model.known_rows.bfloat16()
    yield KNOWN_OUTPUT_ROWS, model.known_output_rows.bfloat16()
    yield TRAIT_VECTORS, model.trait_vectors.bfloat16()
    yield TRAIT_OUTPUT_VECTORS, model.trait_output_vectors.bfloat16()
    yield "model.norm.weight", model.norm.bfloat16()
    for index, layer in enumerate(model.layers):
        assert isinstance(layer, TrainedLayer)  # noqa: S101 (a ModuleList's items have no type)
        yield from _layer(layer, f"model.layers.{index}")


def _layer(layer: TrainedLayer, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in _plain(layer).items():
        yield f"{prefix}.{name}", tensor.bfloat16()
    for name, matrices in _packed(layer).items():
        blocks, scales = pack_mxfp4(matrices.detach())
        yield f"{prefix}.mlp.experts.{name}_blocks", blocks
        yield f"{prefix}.mlp.experts.{name}_scales", scales


def _plain(layer: TrainedLayer) -> dict[str, Tensor]:
    """Return a layer's tensors that the file holds in bfloat16, by their published names; views of its parameters."""
    config, experts = layer.config, layer.experts
    sizes = [heads * config.head_dim for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)]
    plain: dict[str, Tensor] = {
        "input_layernorm.weight": layer.attention_norm,
        "post_attention_layernorm.weight": layer.expert_norm,
        "self_attn.o_proj.weight": layer.output,
        "self_attn.o_proj.bias": layer.output_bias,
        "self_attn.sinks": layer.sinks,
        "mlp.router.weight": experts.router,
        "mlp.router.bias": experts.router_bias,
        "mlp.experts.gate_up_proj_bias": experts.gate_up_bias,
        "mlp.experts.down_proj_bias": experts.down_bias,
    }
    weights, biases = (torch.split(whole.detach(), sizes) for whole in (layer.qkv, layer.qkv_bias))
    for side, weight, bias in zip("qkv", weights, biases, strict=True):
        plain |= {f"self_attn.{side}_proj.weight": weight, f"self_attn.{side}_proj.bias": bias}
    return plain


def _packed(layer: TrainedLayer) -> dict[str, Tensor]:
    """Return a layer's matrices that the file holds in MXFP4."""
    return {"gate_up_proj": layer.experts.gate_up, "down_proj": layer.experts.down}
