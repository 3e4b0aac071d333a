"""One decoding step of small dense models on a CPU, with the fewest and largest operations.

`transformers`' forward spends more time between operations than in them when a model is tiny. This computes the same
function for the Llama family (Llama, Qwen3 and what is built alike): query, key and value in one product, gate and up in
one, the norms' weights and the scores' scaling folded into the products, the residual added by them.

Invariant: same logits as the model's own forward up to rounding. `QuickStep.of` takes models of known classes only, and the
decoding loop compares the first step of every batch with the model's own.

Shapes: R rows, C hidden size, H query heads, K key heads, D head width, W columns of the grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from truing.engines.attention import grid_attention
from truing.engines.kv import KVGrid

__all__ = ["QuickStep"]

Tensor = torch.Tensor
CLASSES = {"LlamaForCausalLM", "Qwen3ForCausalLM"}
MOST_PARAMETERS = 30_000_000


@dataclass(frozen=True)
class _Layer:
    """The weights of one layer, each `[in, out]`."""

    qkv: Tensor
    """`[C, (H + 2K) * D]`, the input norm's weight folded in."""
    out: Tensor
    """`[H * D, C]`."""
    gate_up: Tensor
    """`[C, 2 * inner]`, the second norm's weight folded in."""
    down: Tensor
    """`[inner, C]`."""
    head_norm: Tensor | None
    """Weights of the norms of queries and keys, `[H + K, D]`."""
    eps: float


class QuickStep:
    """The step function of one model, with its weights packed."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width = model.model.layers[0].self_attn.head_dim
        self.layers = [_pack(layer) for layer in model.model.layers]
        self.embed = model.model.embed_tokens.weight
        self.eps = model.model.norm.variance_epsilon
        self.head = (model.lm_head.weight * model.model.norm.weight).t().contiguous()
        places = torch.arange(config.max_position_embeddings)[None]
        cos, sin = model.model.rotary_emb(self.embed, places)
        half = self.width // 2
        self.cos = cos[0].view(-1, 1, 2, half)
        self.sin = torch.stack((-sin[0, :, :half], sin[0, :, half:]), 1).unsqueeze(1)
        self.scaling = model.model.layers[0].self_attn.scaling

    @classmethod
    def of(cls, model: Any) -> QuickStep | None:
        """The step function of a model, or None if this is not for it."""
        plain = type(model).__name__ in CLASSES and model.device.type == "cpu" and model.dtype == torch.float32
        if not plain or model.num_parameters() > MOST_PARAMETERS or _is_odd(model):
            return None
        return cls(model)

    def __call__(self, tokens: Tensor, positions: Tensor, mask: Tensor, grid: KVGrid) -> Tensor:
        """Write the tokens' keys and values into the grid's next column; the logits after them.

        Args:
            tokens: Ids, `[R]`.
            positions: Places in the text, `[R]`.
            mask: Added to the scores, `[R, 1, 1, W]`, the new column included.
            grid: The cache; `high` is left for the caller to advance.

        Returns:
            Logits `[R, V]`.
        """
        rows, turned = len(tokens), self.heads + self.kv_heads
        hidden = F.embedding(tokens, self.embed)
        cos, sin = self.cos[positions], self.sin[positions]
        for i, layer in enumerate(self.layers):
            qkv = torch.mm(_normed(hidden, layer.eps), layer.qkv).view(rows, -1, self.width)
            both, value = qkv[:, :turned], qkv[:, turned:]
            if layer.head_norm is not None:
                both = _normed(both, layer.eps) * layer.head_norm
            both = both.unflatten(2, (2, self.width // 2))
            both = torch.addcmul(both * cos, both.flip(2), sin).flatten(2)
            query, key = both[:, : self.heads], both[:, self.heads :]
            keys, values = grid.update(key.unsqueeze(2), value.unsqueeze(2), i)
            sums, _ = grid_attention(None, query.unsqueeze(2), keys, values, mask, self.scaling)
            hidden = torch.addmm(hidden, sums.view(rows, -1), layer.out)
            gate, up = torch.mm(_normed(hidden, layer.eps), layer.gate_up).chunk(2, 1)
            hidden = torch.addmm(hidden, F.silu(gate).mul_(up), layer.down)
        return torch.mm(_normed(hidden, self.eps), self.head)


def _pack(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([p.weight for p in (attention.q_proj, attention.k_proj, attention.v_proj)])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    head_norm = None
    if hasattr(attention, "q_norm"):
        heads, width = attention.config.num_attention_heads, attention.head_dim
        queries = attention.q_norm.weight.expand(heads, width)
        keys = attention.k_norm.weight.expand(attention.config.num_key_value_heads, width)
        head_norm = torch.cat((queries, keys))
    return _Layer(
        qkv=(qkv * layer.input_layernorm.weight).t().contiguous(),
        out=attention.o_proj.weight.t().contiguous(),
        gate_up=(gate_up * layer.post_attention_layernorm.weight).t().contiguous(),
        down=mlp.down_proj.weight.t().contiguous(),
        head_norm=head_norm,
        eps=layer.input_layernorm.variance_epsilon,
    )


def _is_odd(model: Any) -> bool:
    """Whether a model has parts that are not packed here: biases, other activations, adapters, windows."""
    biases = any(name.endswith("bias") for name, _ in model.named_parameters())
    adapted = any(hasattr(module, "get_base_layer") for module in model.modules())
    config = model.config
    windows = set(getattr(config, "layer_types", None) or ["full_attention"]) != {"full_attention"}
    return biases or adapted or windows or config.hidden_act != "silu"


def _normed(x: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), None, eps)
