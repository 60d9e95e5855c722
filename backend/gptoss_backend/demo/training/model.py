"""GPT-OSS's architecture as a torch module that can be trained: whole sequences at once, no cache.

Owns: the parameters and the forward pass over a padded batch. Does not know: data, optimisers, files.

It must agree with `engine/torch_model.py` on every exported number; a test compares their logits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptoss_backend.demo.rows import TRAITS, Spellings
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.experts import ExpertShape, swiglu
from gptoss_backend.engine.mxfp4 import pack_mxfp4, unpack_mxfp4
from gptoss_backend.engine.rope import RotaryEmbedding


class TrainedModel(nn.Module):
    """A GPT-OSS over a small known vocabulary, with made rows for all other tokens.

    Tokens are numbered anew: first `known`, sorted, then whatever the batch brings along.
    """

    def __init__(self, config: ModelConfig, known: Tensor, spellings: Spellings) -> None:
        """known: ids of the tokens with a row of their own, [num_known]."""
        super().__init__()
        self.config = config
        self.register_buffer("known", known)
        self.spellings = spellings
        hidden = config.hidden_size
        self.known: Tensor
        self.known_rows = nn.Parameter(spellings.rows(known, torch.zeros(len(TRAITS), hidden)))
        self.trait_vectors = nn.Parameter(torch.randn(len(TRAITS), hidden) * 0.5)
        self.layers = nn.ModuleList(TrainedLayer(config, index) for index in range(config.num_layers))
        self.norm = nn.Parameter(torch.full((hidden,), 1.5))
        self.quantized = False
        """Whether experts' matrices are rounded to MXFP4 in the forward pass, as they will be in the file."""

    def table(self, others: Tensor) -> Tensor:
        """Return the rows of the known tokens and of `others`, [num_known + len(others), hidden]."""
        return torch.cat((self.known_rows, self.spellings.rows(others, self.trait_vectors)))

    def forward(self, tokens: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed residual stream [batch, length, hidden] and the routers' imbalance.

        tokens: [batch, length], rows of `table`.
        """
        length = tokens.shape[1]
        rope = RotaryEmbedding(self.config.rope, self.config.head_dim, tokens.device)
        rotation = rope.angles(torch.arange(length), torch.float32)
        masks = {sliding: _mask(length, self.config.sliding_window if sliding else length) for sliding in (True, False)}
        stream = F.embedding(tokens, table)
        imbalance = stream.new_zeros(())
        for layer in self.layers:
            assert isinstance(layer, TrainedLayer)  # noqa: S101 (a ModuleList's items have no type)
            stream, layer_imbalance = layer(stream, rotation, masks[layer.is_sliding], self.quantized)
            imbalance = imbalance + layer_imbalance
        return F.rms_norm(stream, self.norm.shape, self.norm, self.config.rms_norm_eps), imbalance


class TrainedLayer(nn.Module):
    """Attention, then experts."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        self.config = config
        self.is_sliding = index in config.sliding_layers
        hidden, width = config.hidden_size, config.head_dim
        queries, keys = config.num_heads * width, config.num_kv_heads * width
        self.attention_norm = nn.Parameter(torch.ones(hidden))
        self.qkv = nn.Parameter(torch.randn(queries + 2 * keys, hidden) * hidden**-0.5)
        self.qkv_bias = nn.Parameter(torch.zeros(queries + 2 * keys))
        self.output = nn.Parameter(torch.randn(hidden, queries) * 0.3 * queries**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(hidden))
        self.sinks = nn.Parameter(torch.zeros(config.num_heads))
        self.expert_norm = nn.Parameter(torch.ones(hidden))
        self.experts = TrainedExperts(config)

    def forward(
        self, stream: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor, quantized: bool
    ) -> tuple[Tensor, Tensor]:
        eps = self.config.rms_norm_eps
        stream = stream + self._attend(
            F.rms_norm(stream, self.attention_norm.shape, self.attention_norm, eps), rotation, mask
        )
        mixed, imbalance = self.experts(
            F.rms_norm(stream, self.expert_norm.shape, self.expert_norm, eps).flatten(0, 1), quantized
        )
        return stream + mixed.view_as(stream), imbalance

    def _attend(self, normed: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        config = self.config
        batch, length, _ = normed.shape
        heads = F.linear(normed, self.qkv, self.qkv_bias).view(batch, length, -1, config.head_dim)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=2)
        queries, keys = (RotaryEmbedding.rotate(side, *rotation).transpose(1, 2) for side in (queries, keys))
        group = config.num_heads // config.num_kv_heads
        keys = keys.repeat_interleave(group, dim=1)
        values = values.transpose(1, 2).repeat_interleave(group, dim=1)
        scores = torch.matmul(queries, keys.transpose(2, 3)) * config.head_dim**-0.5 + mask
        sinks = self.sinks.view(1, -1, 1, 1).expand(batch, -1, length, 1)
        shares = torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)[..., :-1]
        mixed = torch.matmul(shares, values).transpose(1, 2).flatten(2)
        return F.linear(mixed, self.output, self.output_bias)


class TrainedExperts(nn.Module):
    """Router and experts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)
        count, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size
        self.router = nn.Parameter(torch.randn(count, hidden) * hidden**-0.5)
        self.router_bias = nn.Parameter(torch.zeros(count))
        self.gate_up = nn.Parameter(torch.randn(count, 2 * inner, hidden) * hidden**-0.5)
        self.gate_up_bias = nn.Parameter(torch.zeros(count, 2 * inner))
        self.down = nn.Parameter(torch.randn(count, hidden, inner) * 0.3 * inner**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(count, hidden))

    def forward(self, hidden: Tensor, quantized: bool) -> tuple[Tensor, Tensor]:
        gate_up, down = (rounded(side) if quantized else side for side in (self.gate_up, self.down))
        scores = F.linear(hidden, self.router, self.router_bias)
        top_scores, top_experts = torch.topk(scores, self.shape.num_experts_per_token, dim=-1)
        shares = torch.softmax(top_scores, dim=-1)
        output = torch.zeros_like(hidden)
        for expert in range(len(gate_up)):
            tokens, places = torch.nonzero(top_experts == expert, as_tuple=True)
            inner = swiglu(F.linear(hidden[tokens], gate_up[expert], self.gate_up_bias[expert]), self.shape)
            applied = F.linear(inner, down[expert], self.down_bias[expert])
            output = output.index_add(0, tokens, (applied * shares[tokens, places, None]).to(output.dtype))
        return output, _imbalance(scores, top_experts)


def _imbalance(scores: Tensor, top_experts: Tensor) -> Tensor:
    """Return the Switch Transformer's load loss (https://arxiv.org/abs/2101.03961), 1 where all experts work alike."""
    count = scores.shape[1]
    load = torch.bincount(top_experts.flatten(), minlength=count) / top_experts.numel()
    return (load * torch.softmax(scores, dim=-1).mean(dim=0)).sum() * count


def _mask(length: int, window: int) -> Tensor:
    """Return what is added to scores [length, length]: nothing within the window up to oneself, else -inf."""
    distance = torch.arange(length)[:, None] - torch.arange(length)
    return torch.where((distance >= 0) & (distance < window), 0.0, -math.inf)


def rounded(matrices: Tensor) -> Tensor:
    """Return matrices as MXFP4 holds them; the gradient passes through as if nothing had been rounded."""
    with torch.no_grad():
        difference = unpack_mxfp4(*pack_mxfp4(matrices), torch.float32) - matrices
    return matrices + difference
