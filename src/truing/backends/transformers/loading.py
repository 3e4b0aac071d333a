"""A model ready to be trained: its weights in the right precision, its adapter, and the names of what is trained."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM

from truing.catalog.models import TARGETS, Targets, check_adapted, find_model, find_targets
from truing.config import TrainingConfig
from truing.core.adapters import no_progress_bars
from truing.core.errors import TrainerError, plural
from truing.core.plugins import require

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_half(config: TrainingConfig) -> bool:
    """True if training computes in bfloat16."""
    if config.precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return config.precision == "bfloat16"


def load_trainable(name: str, source: str, config: TrainingConfig) -> tuple[PreTrainedModel, list[str]]:
    """A model to train, and the names of its weights that training changes.

    A study knows it by the `name`; the `source` is what loads it.

    Raises:
        TrainerError: It is not of the architecture that the catalogue says, its targets are not known, an adapter does
            not cover what it should, or it cannot be quantised here.
        MissingExtraError: It is to be quantised, and bitsandbytes is not installed.
    """
    model = _load(source, config)
    _check_architecture(name, model.config.model_type)
    model.config.use_cache = False
    names = [each for each, _ in model.named_parameters()]
    if config.method == "full":
        return model, sorted(names)
    targets = targets_of(model)
    if config.quantize != "none":
        _refuse_experts(targets, model.config.model_type)
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        use_rslora=config.rslora,
        target_modules=list(targets.modules),
        target_parameters=list(targets.parameters) or None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 renamed
        warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)
        wrapped = get_peft_model(model, lora)
    trainable = [each for each, p in wrapped.named_parameters() if p.requires_grad]
    return wrapped, check_adapted(targets, names, trainable)


def targets_of(model: PreTrainedModel) -> Targets:
    """What LoRA adapts: by the table of the catalogue, else every linear layer in the blocks of the language model.

    Vision towers, embeddings and the head stay as they are.

    Raises:
        TrainerError: Blocks hold matrices that are no linear layers (experts, states), so that a part would be left
            out; or there are no blocks of linear layers.
    """
    kind = model.config.model_type
    if kind in TARGETS:
        return find_targets(kind, [name for name, _ in model.named_parameters()])
    language = set(model.get_decoder().modules())
    linear, other = set[str](), list[str]()
    for name, module in model.named_modules():
        if module not in language or not re.search(r"\.\d+\.", name):
            continue
        if isinstance(module, torch.nn.Linear) and "expert" not in name:
            linear.add(name)
        elif not isinstance(module, torch.nn.Conv1d):
            other += [f"{name}.{own}" for own, p in module.named_parameters(recurse=False) if p.dim() > 1]
    if other or not linear:
        raise TrainerError(
            "no LoRA targets are known for this architecture",
            f"{kind}: {plural(len(other), 'weight')} in no linear layer, {', '.join(other[:2])}" if other else kind,
            f"a model whose attention and MLP are linear layers, or one of: {', '.join(sorted(TARGETS))}",
            "add its targets to truing.catalog.models.TARGETS, or set training.method to full",
        )
    short = {name.rpartition(".")[2] for name in linear}
    alike = {name for name, _ in model.named_modules() if name.rpartition(".")[2] in short}
    return Targets(tuple(sorted(short if alike == linear else linear)))


def _load(source: str, config: TrainingConfig) -> PreTrainedModel:
    # Weights that are trained stay in float32: steps at a learning rate of 1e-5 would be rounded away in bfloat16.
    half = is_half(config) and config.method == "lora"
    more = _four_bits() if config.quantize == "4bit" else {}
    with no_progress_bars():
        return AutoModelForCausalLM.from_pretrained(
            source,
            dtype=torch.bfloat16 if half else torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            **more,
        )


def _four_bits() -> dict[str, Any]:
    if not torch.cuda.is_available():
        raise TrainerError(
            "4-bit training needs a CUDA GPU", "none here", "a CUDA GPU", "set training.quantize to none"
        )
    require("quantize", "bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": settings, "device_map": {"": torch.cuda.current_device()}}


def _refuse_experts(targets: Targets, architecture: str) -> None:
    if targets.parameters:
        raise TrainerError(
            "4-bit training does not know experts, whose weights are no linear layers",
            architecture,
            "a dense model",
            "set training.quantize to none",
        )


def _check_architecture(name: str, found: str) -> None:
    known = find_model(name)
    if known is not None and known.architecture not in (None, found):
        raise TrainerError(
            f"{name} is not what the catalogue says, so its LoRA targets would be others",
            found,
            known.architecture or "",
            "name the model by its folder or hub id, or correct src/truing/catalog/data/models.yaml",
        )
