"""The parts of layers for `quick.QuickStep`: attention with heads or latents, inner layers with or without experts.

Each packs the weights of a layer of `transformers` (norm weights folded in) and raises NotImplementedError
for what it does not know. Shapes: see `quick`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F

from truing.backends.transformers.attention import attend
from truing.backends.transformers.kv import KVGrid
from truing.backends.transformers.products import gated, linear, linear_onto

__all__ = ["Attention", "Inner", "Turn", "attention_of", "inner_of", "normed"]

Tensor = torch.Tensor
MOST_EXPERTS = 8
"""Experts up to which all are computed for every token."""


@dataclass(frozen=True)
class Turn:
    """The rotations of the rows' places, `[R, 1, 2, D / 2]` each; sines with the sign of their half."""

    cos: Tensor
    sin: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate `[R, heads, D]`, whose pairs are (i, i + D / 2)."""
        halves = x.unflatten(2, (2, x.shape[2] // 2))
        return torch.addcmul(halves * self.cos, halves.flip(2), self.sin).flatten(2)


class Attention(Protocol):
    """The attention of one layer."""

    turned: int
    """Width that is rotated."""

    def __call__(self, index: int, x: Tensor, residual: Tensor, turn: Turn, mask: Tensor, grid: KVGrid) -> Tensor:
        """The residual with the attention's output for the normed input `x` added, `[R, C]`."""
        ...


Inner = Callable[[Tensor, Tensor], Tensor]
"""(normed input, residual) -> residual with the inner layer's output added, all `[R, C]`."""


def normed(x: Tensor, eps: float) -> Tensor:
    """Root mean square norm over the last dimension, without weight."""
    return F.rms_norm(x, (x.shape[-1],), None, eps)


def attention_of(layer: Any, config: Any) -> Attention:
    """The attention of a layer."""
    if hasattr(layer.self_attn, "kv_a_proj_with_mqa"):
        return _LatentAttention(layer, config)
    return _HeadAttention(layer, config)


def inner_of(layer: Any, config: Any) -> Inner:
    """The inner layer of a layer."""
    mlp = layer.mlp
    if hasattr(mlp, "gate_proj"):
        return _Dense(layer, config)
    if config.num_local_experts > MOST_EXPERTS:
        raise NotImplementedError("many experts")
    return _ClampedExperts(layer) if hasattr(mlp, "router") else _SharedExperts(layer, config)


class _HeadAttention:
    """Attention with a key and a value per head: Llama, Qwen3 (norms per head), GPT-OSS (biases and sinks)."""

    def __init__(self, layer: Any, config: Any) -> None:
        own = layer.self_attn
        self.turned = own.head_dim
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        parts = (own.q_proj, own.k_proj, own.v_proj)
        self.qkv, self.bias = _packed(parts, layer.input_layernorm.weight)
        self.out, self.out_bias = _packed((own.o_proj,), None)
        self.sinks = getattr(own, "sinks", None)
        self.scaling = own.scaling
        self.norm: Tensor | None = None
        if hasattr(own, "q_norm"):
            queries = own.q_norm.weight.expand(self.heads, self.turned)
            self.norm = torch.cat((queries, own.k_norm.weight.expand(self.kv_heads, self.turned)))
            self.eps = own.q_norm.variance_epsilon

    def __call__(self, index: int, x: Tensor, residual: Tensor, turn: Turn, mask: Tensor, grid: KVGrid) -> Tensor:
        qkv = linear(x, self.qkv, self.bias).view(len(x), -1, self.turned)
        both, value = qkv.split((self.heads + self.kv_heads, self.kv_heads), 1)
        if self.norm is not None:
            both = normed(both, self.eps) * self.norm
        query, key = turn(both).split((self.heads, self.kv_heads), 1)
        keys, values = grid.update(key.unsqueeze(2), value.unsqueeze(2), index)
        query = (query * self.scaling).view(len(x), self.kv_heads, -1, self.turned)
        sums = attend([(keys, query)], values, mask, self.sinks)
        return linear_onto(residual, sums.view(len(x), -1), self.out, self.out_bias)


class _LatentAttention:
    """DeepSeek's attention: one latent per token stands for the keys and values of all heads.

    The grid's keys hold the latents, its values the rotated part of the keys. The projection from latents to
    keys is folded into the query's weights, the one to values into the output's.
    """

    def __init__(self, layer: Any, config: Any) -> None:
        own = layer.self_attn
        if own.q_proj is None or config.attention_bias:
            raise NotImplementedError("compressed queries")
        self.heads, self.rank, self.turned = (
            config.num_attention_heads,
            config.kv_lora_rank,
            own.qk_rope_head_dim,
        )
        plain, width = own.qk_nope_head_dim, own.v_head_dim
        order = _halves(self.turned) if config.rope_interleave else torch.arange(self.turned)
        query = own.q_proj.weight.view(self.heads, plain + self.turned, -1)
        expand = own.kv_b_proj.weight.view(self.heads, plain + width, self.rank)
        latent = own.kv_a_proj_with_mqa.weight
        rows = torch.cat((
            torch.einsum("hpr,hpc->hrc", expand[:, :plain], query[:, :plain]).flatten(0, 1),
            query[:, plain:][:, order].flatten(0, 1),
            latent[: self.rank],
            latent[self.rank :][order],
        ))  # fmt: skip
        self.all = rows * layer.input_layernorm.weight
        output = own.o_proj.weight.view(-1, self.heads, width)
        self.out = torch.einsum("hvr,chv->chr", expand[:, plain:], output).flatten(1)
        self.norm, self.eps = own.kv_a_layernorm.weight, own.kv_a_layernorm.variance_epsilon
        self.scaling = own.scaling

    def __call__(self, index: int, x: Tensor, residual: Tensor, turn: Turn, mask: Tensor, grid: KVGrid) -> Tensor:
        sizes = (self.heads * self.rank, (self.heads + 1) * self.turned)
        products = linear(x, self.all)
        asked = products[:, : sizes[0]].view(len(x), 1, self.heads, self.rank) * self.scaling
        turned_query = products[:, sizes[0] : sizes[0] + self.heads * self.turned]
        latent, turned_key = products[:, sizes[0] + self.heads * self.turned :].split((self.rank, self.turned), 1)
        both = turn(torch.cat((turned_query, turned_key), 1).view(len(x), -1, self.turned))
        latent = (normed(latent, self.eps) * self.norm).view(len(x), 1, 1, self.rank)
        latents, keys = grid.update(latent, both[:, self.heads :].unsqueeze(1), index)
        query = (both[:, : self.heads] * self.scaling).unsqueeze(1)
        sums = attend([(latents, asked), (keys, query)], latents, mask, None)
        return linear_onto(residual, sums.view(len(x), -1), self.out)


class _Dense:
    """A gated inner layer with SiLU."""

    def __init__(self, layer: Any, config: Any) -> None:
        _check_silu(config)
        scale = layer.post_attention_layernorm.weight
        self.gate, self.gate_bias = _packed((layer.mlp.gate_proj,), scale)
        self.up, self.up_bias = _packed((layer.mlp.up_proj,), scale)
        self.down, self.down_bias = _packed((layer.mlp.down_proj,), None)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        inner = gated(x, self.gate, self.up, self.gate_bias, self.up_bias)
        return linear_onto(residual, inner, self.down, self.down_bias)


class _SharedExperts:
    """DeepSeek's experts, all side by side, the shared ones among them with weight 1."""

    def __init__(self, layer: Any, config: Any) -> None:
        _check_silu(config)
        mlp = layer.mlp
        self.router, self.scale = mlp.gate, layer.post_attention_layernorm.weight
        self.experts, self.width = mlp.experts.num_experts, mlp.experts.intermediate_dim
        gate, up = (half.flatten(0, 1) for half in mlp.experts.gate_up_proj.chunk(2, 1))
        shared = mlp.shared_experts
        self.gate = torch.cat((gate, shared.gate_proj.weight)) * self.scale
        self.up = torch.cat((up, shared.up_proj.weight)) * self.scale
        down = mlp.experts.down_proj.transpose(0, 1).flatten(1)
        self.down = torch.cat((down, shared.down_proj.weight), 1)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        _, weights, chosen = self.router(x * self.scale)
        shares = x.new_zeros(len(x), self.experts).scatter_(1, chosen, weights.to(x.dtype))
        inner = gated(x, self.gate, self.up)
        inner[:, : self.experts * self.width].view(len(x), self.experts, self.width).mul_(shares.unsqueeze(2))
        return linear_onto(residual, inner, self.down)


class _ClampedExperts:
    """GPT-OSS's experts, all side by side, with its clamped gate and biases."""

    def __init__(self, layer: Any) -> None:
        experts = layer.mlp.experts
        self.router, self.scale = layer.mlp.router, layer.post_attention_layernorm.weight
        self.experts, self.width = experts.num_experts, experts.intermediate_size
        self.alpha, self.limit = experts.alpha, experts.limit
        # [E, C, 2 I] with gate and up interleaved -> [gate of all experts, up of all experts; C]
        split = experts.gate_up_proj.unflatten(2, (self.width, 2)).permute(3, 0, 2, 1)
        self.gate_up = split.flatten(0, 2) * self.scale
        self.bias = experts.gate_up_proj_bias.unflatten(1, (self.width, 2)).permute(2, 0, 1).flatten()
        down = experts.down_proj.flatten(0, 1).t()
        self.down = torch.cat((down, experts.down_proj_bias.t()), 1)

    def __call__(self, x: Tensor, residual: Tensor) -> Tensor:
        _, weights, chosen = self.router(x * self.scale)
        shares = x.new_zeros(len(x), self.experts).scatter_(1, chosen, weights)
        gate, up = linear(x, self.gate_up, self.bias).chunk(2, 1)
        gate = gate.clamp(max=self.limit)
        inner = up.clamp(-self.limit, self.limit).add_(1).mul_(gate).mul_((gate * self.alpha).sigmoid_())
        weighted = inner.view(len(x), self.experts, self.width).mul_(shares.unsqueeze(2)).flatten(1)
        return linear_onto(residual, torch.cat((weighted, shares), 1), self.down)


def _packed(linears: tuple[Any, ...], scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Linear layers one below the other, `[out, in]`, with the norm before them folded in, and their biases."""
    rows = torch.cat([linear.weight for linear in linears])
    biases = [linear.bias for linear in linears]
    if any(b is None for b in biases) != all(b is None for b in biases):
        raise NotImplementedError("biases on some projections")
    return rows if scale is None else rows * scale, None if biases[0] is None else torch.cat(biases)


def _halves(width: int) -> Tensor:
    """The order that brings interleaved pairs (0, 1), (2, 3), ... into halves."""
    return torch.cat((torch.arange(0, width, 2), torch.arange(1, width, 2)))


def _check_silu(config: Any) -> None:
    if config.hidden_act != "silu":
        raise NotImplementedError(config.hidden_act)
