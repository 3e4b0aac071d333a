"""What a LoRA adapter adapts, by architecture, and proof that it did.

PEFT drops targets in silence: with the usual seven names it leaves out most of DeepSeek-V3 (it rewrites `gate_proj` and
its like to the fused experts, so the dense layer and the shared experts get nothing) and all experts of GPT-OSS. So the
targets are explicit here, weights that PEFT would rewrite are named as parameters, and `check_adapted` compares what is
adapted with what should be. Routers are never adapted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from truing.core.errors import TrainerError

__all__ = ["TARGETS", "Targets", "check_adapted", "find_targets"]

_PREFIX = "base_model.model."
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_EXPERTS = ("experts.gate_up_proj", "experts.down_proj")


@dataclass(frozen=True)
class Targets:
    """What to adapt, as PEFT's `target_modules` and `target_parameters`: both match the end of a full name."""

    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


_DENSE = Targets((*_ATTENTION, *_MLP))
TARGETS = {
    "llama": _DENSE,
    "qwen2": _DENSE,
    "qwen3": _DENSE,
    "qwen3_moe": Targets(_ATTENTION, (*_EXPERTS, *(f"mlp.{name}.weight" for name in _MLP))),
    "deepseek_v3": Targets(
        ("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"),
        (
            *_EXPERTS,
            *(f"mlp.{name}.weight" for name in _MLP),
            *(f"shared_experts.{name}.weight" for name in _MLP),
        ),
    ),
    "gpt_oss": Targets(_ATTENTION, _EXPERTS),
}
"""`model_type` of a config -> its targets."""


def find_targets(model_type: str, parameter_names: Iterable[str]) -> Targets:
    """The targets of an architecture that a model of it really has.

    Raises:
        TrainerError: The architecture is not in `TARGETS`.
    """
    if model_type not in TARGETS:
        raise TrainerError(
            "no LoRA targets are known for this architecture",
            model_type,
            ", ".join(sorted(TARGETS)),
            "add its targets to truing.catalog.targets.TARGETS",
        )
    wanted, names = TARGETS[model_type], list(parameter_names)
    return Targets(
        tuple(t for t in wanted.modules if any(_ends(n, f"{t}.weight") for n in names)),
        tuple(t for t in wanted.parameters if any(_ends(n, t) for n in names)),
    )


def check_adapted(targets: Targets, parameter_names: Iterable[str], trainable_names: Iterable[str]) -> list[str]:
    """The names of the weights that are adapted, after checking that they are all of the targets' and no others.

    Args:
        targets: What should be adapted.
        parameter_names: Names of the base model's parameters before PEFT wrapped it.
        trainable_names: Names of the trainable parameters after.

    Raises:
        TrainerError: A weight that should be adapted is not, or one that should not be is.
    """
    ends = (*(f"{t}.weight" for t in targets.modules), *targets.parameters)
    expected = {n for n in parameter_names if any(_ends(n, end) for end in ends)}
    trainable = list(trainable_names)
    containers = {re.sub(r"(\.base_layer)*\.lora_[AB]\..*$", "", n.removeprefix(_PREFIX)) for n in trainable}
    expected_containers = {n.rpartition(".")[0] for n in expected}
    wrong = containers ^ expected_containers
    # A fused experts module holds two adapted parameters in one container: count the lora_A weights as well.
    n_adapters = sum(".lora_A." in name for name in trainable)
    if wrong or n_adapters != len(expected):
        raise TrainerError(
            "the adapter does not cover what it should",
            got=f"{n_adapters} adapted weights; differing modules: {', '.join(sorted(wrong)) or 'none'}",
            allowed=f"{len(expected)} weights",
            todo="this version of peft maps targets differently: report it, with the versions of peft and transformers",
        )
    return sorted(expected)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")
