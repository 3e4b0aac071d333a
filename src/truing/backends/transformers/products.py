"""Matrix products by oneDNN where torch has it: on AMD's AVX-512 processors twice as fast as by MKL.

torch's own `linear` in float32 always asks MKL, which uses half the width of such a processor. The operators here are
those that `torch.compile` uses; without them everything falls back to plain torch. No gradients.

Shapes: x `[R, in]`, weights `[out, in]`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["gated", "linear", "linear_onto"]

Tensor = torch.Tensor


def _operator() -> Any:
    if not torch.backends.mkldnn.is_available():
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_POINTWISE = _operator()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, `[R, out]`."""
    if _POINTWISE is None:
        return F.linear(x, weight, bias)
    product: Tensor = _POINTWISE(x, weight, bias, "none", [], "")
    return product


def linear_onto(residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`residual + x @ weight.T + bias`, `[R, out]`."""
    if _POINTWISE is None:
        return F.linear(x, weight, bias).add_(residual)
    total: Tensor = _POINTWISE.binary(x, residual, weight, bias, "add")
    return total


def gated(
    x: Tensor, gate: Tensor, up: Tensor, gate_bias: Tensor | None = None, up_bias: Tensor | None = None
) -> Tensor:
    """`silu(x @ gate.T + gate_bias) * (x @ up.T + up_bias)`, `[R, out]`."""
    if _POINTWISE is None:
        return F.silu(F.linear(x, gate, gate_bias)).mul_(F.linear(x, up, up_bias))
    opened = _POINTWISE(x, gate, gate_bias, "swish", [], "")
    product: Tensor = _POINTWISE.binary(x, opened, up, up_bias, "mul")
    return product
