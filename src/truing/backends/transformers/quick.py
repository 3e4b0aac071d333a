"""One decoding step of small models on a CPU, in few and large operations.

`transformers`' forward spends more time between operations than in them when a model is tiny. `QuickStep`
computes the same function for the four pocket architectures (Llama, Qwen3, DeepSeek-V3, GPT-OSS): query, key
and value in one product, gate and up in one, all experts side by side in one, DeepSeek's latent keys used
without expanding them, the norms' weights folded into the products, the residual added by them.

Invariant: the same logits as the model's own forward up to rounding. `QuickStep.of` takes models of known
classes only, and `steps.Stepper` compares the first step of every call with the model's own.

Shapes: R rows, C hidden size, I inner size, H query heads, K key heads, D head width, E experts, W columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from truing.backends.transformers.kv import KVGrid
from truing.backends.transformers.products import linear
from truing.backends.transformers.quick_parts import Attention, Inner, Turn, attention_of, inner_of, normed

__all__ = ["QuickStep"]

Tensor = torch.Tensor
CLASSES = {"LlamaForCausalLM", "Qwen3ForCausalLM", "DeepseekV3ForCausalLM", "GptOssForCausalLM"}
MOST_PARAMETERS = 30_000_000
LONGEST_CONTEXT = 16_384


@dataclass(frozen=True)
class _Layer:
    attention: Attention
    inner: Inner
    kind: str
    eps: float


class QuickStep:
    """The step function of one model, with its weights packed.

    Args:
        model: A model that `of` takes.
    """

    def __init__(self, model: Any) -> None:
        config, body = model.config, model.model
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * len(body.layers)
        self._layers = [
            _Layer(
                attention_of(layer, config),
                inner_of(layer, config),
                kind,
                layer.input_layernorm.variance_epsilon,
            )
            for layer, kind in zip(body.layers, kinds, strict=True)
        ]
        self._embed = body.embed_tokens.weight
        self._eps = body.norm.variance_epsilon
        self._head = model.lm_head.weight * body.norm.weight
        cos, sin = body.rotary_emb(self._embed, torch.arange(config.max_position_embeddings)[None])
        half = self._layers[0].attention.turned // 2
        self._cos = cos[0, :, None, None, :half].expand(-1, -1, 2, -1).contiguous()
        self._sin = torch.stack((-sin[0, :, :half], sin[0, :, :half]), 1).unsqueeze(1)

    @classmethod
    def of(cls, model: Any) -> QuickStep | None:
        """The step function of a model, or None if this is not for it."""
        if type(model).__name__ not in CLASSES or model.device.type != "cpu" or model.dtype != torch.float32:
            return None
        config = model.config
        large = model.num_parameters() > MOST_PARAMETERS or config.max_position_embeddings > LONGEST_CONTEXT
        adapted = any(hasattr(module, "get_base_layer") for module in model.modules())
        try:
            return None if large or adapted else cls(model)
        except NotImplementedError:
            return None

    def __call__(self, tokens: Tensor, positions: Tensor, masks: Tensor | Mapping[str, Tensor], grid: KVGrid) -> Tensor:
        """Write the tokens' keys and values into the grid's next column; the logits after them.

        Args:
            tokens: Ids, `[R]`.
            positions: Places in the text, `[R]`.
            masks: Added to the scores, `[R, 1, 1, W]` with the new column; one, or one per kind of layer.
            grid: The cache; `high` is left for the caller to advance.

        Returns:
            Logits `[R, V]`.
        """
        hidden = F.embedding(tokens, self._embed)
        turn = Turn(self._cos[positions], self._sin[positions])
        for i, layer in enumerate(self._layers):
            mask = masks if isinstance(masks, Tensor) else masks[layer.kind]
            hidden = layer.attention(i, normed(hidden, layer.eps), hidden, turn, mask, grid)
            hidden = layer.inner(normed(hidden, layer.eps), hidden)
        return linear(normed(hidden, self._eps), self._head)
