"""GPT-OSS's architecture as a torch module that can be trained: whole sequences at once, no cache.

Owns: the parameters and the forward pass over a padded batch. Does not know: data, optimisers, files.

It must agree with `engine/torch_model.py` on every exported number; a test compares their logits.
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptoss_backend.demo.rows import TRAITS, Spellings, said, scaled
from gptoss_backend.demo.training.functions import attend_with_sinks, compute_dtype, rms_norm, swiglu
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.experts import ExpertShape
from gptoss_backend.engine.mxfp4 import round_to_mxfp4
from gptoss_backend.engine.rope import RotaryEmbedding

_NUM_LOOK_ALIKES: Final = 8
"""Stems for each row."""


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
        self.register_buffer("_stem_signs", spellings.vectors.bfloat16(), persistent=False)
        self._stem_signs: Tensor
        hidden = config.hidden_size
        self.known: Tensor
        self.known_rows = nn.Parameter(spellings.rows(known, torch.zeros(len(TRAITS), hidden)))
        self.known_output_rows = nn.Parameter(said(self.known_rows.detach()))
        self.trait_vectors = nn.Parameter(torch.randn(len(TRAITS), hidden) * 0.5)
        self.trait_output_vectors = nn.Parameter(torch.randn(len(TRAITS), hidden) * 0.5)
        self.layers = nn.ModuleList(TrainedLayer(config, index) for index in range(config.num_layers))
        self.norm = nn.Parameter(torch.full((hidden,), 1.5))
        self.quantized = False
        """Whether experts' matrices are rounded to MXFP4 in the forward pass, as they will be in the file."""

    def move_to(self, device: torch.device) -> None:
        """Compute there from now on."""
        self.to(device)
        self.spellings = self.spellings.to(device)

    def table(self, others: Tensor) -> Tensor:
        """Return the embedding of the known tokens and of `others`, [num_known + len(others), hidden]."""
        return torch.cat((self.known_rows, self.spellings.rows(others, self.trait_vectors)))

    def output_table(self, others: Tensor) -> Tensor:
        """Return the output's rows of the same tokens, of the same shape."""
        return scaled(
            torch.cat((self.known_output_rows, self.spellings.output_rows(others, self.trait_output_vectors)))
        )

    @torch.no_grad()
    def look_alikes(self, hidden: Tensor) -> Tensor:
        """Return ids of unknown tokens that come nearest to what rows say, the right ones among them.

        hidden: [num_rows, hidden]. Random directions by the hundred thousand hold some that are near to any other: a
        few random tokens hardly ever name them, and all of them together are too many.
        """
        # every other row: a dialogue copies a word more than once, and a step is quicker by a twentieth
        # dot products are the same with both sides turned; stems are signs, which bfloat16 holds
        scores = torch.mm(said(hidden[::2]).bfloat16(), self._stem_signs.t())
        nearest = scores.topk(_NUM_LOOK_ALIKES, dim=1).indices
        is_near = torch.zeros(len(self._stem_signs), dtype=torch.bool, device=hidden.device)
        is_near[nearest.flatten()] = True
        is_near = is_near[self.spellings.stems]
        is_near[self.known] = False
        return torch.nonzero(is_near).flatten()

    def forward(self, shared: Tensor, tokens: Tensor, table: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed residual stream [num_wanted, hidden] of some of `tokens`, and the routers' imbalance.

        shared: [shared_length] what all sequences begin with, computed once. tokens: [batch, length] what follows it.
        Both are rows of `table`. wanted: [batch, length] bool; the last experts see no others.
        """
        batch, length = tokens.shape
        begin = len(shared)
        rope = RotaryEmbedding(self.config.rope, self.config.head_dim, tokens.device)
        rotation = rope.angles(torch.arange(begin + length, device=tokens.device), compute_dtype(table))
        windows = {sliding: self.config.sliding_window if sliding else begin + length for sliding in (True, False)}
        masks = {sliding: _mask(begin + length, window, tokens.device) for sliding, window in windows.items()}
        stream = F.embedding(torch.cat((shared, tokens.flatten())), table)
        imbalance = stream.new_zeros(())
        left = torch.cat((wanted.new_zeros(begin), wanted.flatten()))
        for layer in self.layers:
            assert isinstance(layer, TrainedLayer)  # noqa: S101 (a ModuleList's items have no type)
            stream = layer.attend(stream, (batch, begin), rotation, masks[layer.is_sliding])
            if layer is self.layers[-1]:
                stream = stream[left]
            stream, layer_imbalance = layer.mix_experts(stream, self.quantized)
            imbalance = imbalance + layer_imbalance
        return rms_norm(stream, self.norm, self.config.rms_norm_eps), imbalance


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

    def attend(self, stream: Tensor, sizes: tuple[int, int], rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """Return the stream after attention, [begin + batch * length, hidden]. sizes: batch, begin."""
        normed = rms_norm(stream, self.attention_norm, self.config.rms_norm_eps)
        return stream + self._attend(normed, sizes, rotation, mask)

    def mix_experts(self, stream: Tensor, quantized: bool) -> tuple[Tensor, Tensor]:
        """Return the stream [rows, hidden] after the experts, and their router's imbalance."""
        normed = rms_norm(stream, self.expert_norm, self.config.rms_norm_eps)
        mixed, imbalance = self.experts(normed, quantized)
        return stream + mixed, imbalance

    def _attend(self, normed: Tensor, sizes: tuple[int, int], rotation: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        config = self.config
        batch, begin = sizes
        heads = F.linear(normed, self.qkv, self.qkv_bias).view(len(normed), -1, config.head_dim)
        shared = self._turned(heads[None, :begin], rotation, 0)
        own = self._turned(heads[begin:].view(batch, -1, *heads.shape[1:]), rotation, begin)
        keys, values = (
            torch.cat((ahead.expand(batch, -1, -1, -1), behind), dim=2)
            for ahead, behind in zip(shared[1:], own[1:], strict=True)
        )
        mixed = torch.cat(
            (
                self._mix(*shared, mask[:begin, :begin]).flatten(0, 1),
                self._mix(own[0], keys, values, mask[begin:]).flatten(0, 1),
            )
        )
        return F.linear(mixed, self.output, self.output_bias)

    def _turned(self, heads: Tensor, rotation: tuple[Tensor, Tensor], begin: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, [batch, num_heads or num_kv_heads, length, head_dim] each."""
        config = self.config
        cos, sin = (side[begin : begin + heads.shape[1]] for side in rotation)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=2)
        queries, keys = (RotaryEmbedding.rotate(side, cos, sin) for side in (queries, keys))
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def _mix(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return what each query draws from the values, [batch, length, num_heads * head_dim]."""
        scaled_queries = queries * self.config.head_dim**-0.5
        return attend_with_sinks(scaled_queries, keys, values, self.sinks, mask).transpose(1, 2).flatten(2)


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
        order = top_experts.flatten().argsort()
        tokens = order // self.shape.num_experts_per_token
        loads = torch.bincount(top_experts.flatten(), minlength=len(gate_up)).tolist()
        applied = [
            self._ask(part, gate_up[expert], down[expert], expert)
            for expert, part in enumerate(torch.split(hidden.index_select(0, tokens), loads))
        ]
        weighted = torch.cat(applied) * shares.flatten()[order, None]
        output = weighted.new_zeros(hidden.shape).index_add(0, tokens, weighted)
        return output, _imbalance(scores, top_experts)

    def _ask(self, rows: Tensor, gate_up: Tensor, down: Tensor, expert: int) -> Tensor:
        # gate and up rows alternate in the file; taken apart, each side of the activation is a matrix of its own
        gate, up = (F.linear(rows, gate_up[side::2], self.gate_up_bias[expert, side::2]) for side in (0, 1))
        return F.linear(swiglu(gate, up, self.shape), down, self.down_bias[expert])


def _imbalance(scores: Tensor, top_experts: Tensor) -> Tensor:
    """Return the Switch Transformer's load loss (https://arxiv.org/abs/2101.03961), 1 where all experts work alike."""
    count = scores.shape[1]
    load = torch.bincount(top_experts.flatten(), minlength=count) / top_experts.numel()
    return (load * torch.softmax(scores, dim=-1).mean(dim=0)).sum() * count


def _mask(length: int, window: int, device: torch.device) -> Tensor:
    """Return what is added to scores [length, length]: nothing within the window up to oneself, else -inf."""
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    return torch.where((distance >= 0) & (distance < window), 0.0, -math.inf)


def rounded(matrices: Tensor) -> Tensor:
    """Return matrices as MXFP4 holds them; the gradient passes through as if nothing had been rounded."""
    with torch.no_grad():
        difference = round_to_mxfp4(matrices) - matrices
    return matrices + difference
