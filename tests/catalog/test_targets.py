import pytest
import torch
from peft import LoraConfig, get_peft_model

from organisms.models import ARCHITECTURES, build_model
from truing.catalog.models import TARGETS, check_adapted, find_targets
from truing.core.errors import TrainerError


def adapt(architecture: str, modules: list[str], parameters: list[str] | None) -> tuple[list[str], list[str]]:
    model = build_model(architecture, 100, 32, 2, seed=0)
    before = [name for name, _ in model.named_parameters()]
    config = LoraConfig(r=2, target_modules=modules, target_parameters=parameters, task_type="CAUSAL_LM")
    wrapped = get_peft_model(model, config)
    return before, [name for name, p in wrapped.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_matrix_but_router_embedding_and_norm_is_adapted(architecture: str) -> None:
    model = build_model(architecture, 100, 32, 2, seed=0)
    names = [name for name, _ in model.named_parameters()]
    targets = find_targets(architecture, names)
    before, trainable = adapt(architecture, list(targets.modules), list(targets.parameters) or None)
    adapted = check_adapted(targets, before, trainable)
    matrices = {
        name
        for name, p in model.named_parameters()
        if p.dim() >= 2 and "embed" not in name and not name.endswith(("mlp.gate.weight", "router.weight", "_bias"))
    }
    assert set(adapted) == matrices
    assert isinstance(next(model.parameters()), torch.nn.Parameter)


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys:RuntimeWarning")
def test_what_peft_drops_in_silence_is_an_error() -> None:
    """The usual seven names on DeepSeek-V3 leave out its dense layer, its shared experts and most of its attention."""
    usual = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    before, trainable = adapt("deepseek_v3", usual, None)
    with pytest.raises(TrainerError, match="does not cover"):
        check_adapted(find_targets("deepseek_v3", before), before, trainable)


def test_a_missing_expert_parameter_is_an_error() -> None:
    before, trainable = adapt("gpt_oss", ["q_proj", "k_proj", "v_proj", "o_proj"], ["experts.down_proj"])
    with pytest.raises(TrainerError, match="does not cover"):
        check_adapted(find_targets("gpt_oss", before), before, trainable)


def test_an_unknown_architecture_says_which_are_known() -> None:
    with pytest.raises(TrainerError, match="deepseek_v3") as caught:
        find_targets("mamba", [])
    assert all(name in str(caught.value) for name in TARGETS)
