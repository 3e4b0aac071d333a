import math

import pytest
import yaml

from truing.backends import BACKENDS
from truing.catalog.models import TARGETS, find_model, list_models, parameters_of, resolve_model
from truing.core.errors import UnknownNameError


def dense(vocabulary: int, hidden: int, mlp: int, layers: int, heads: tuple[int, int], **more: int | bool) -> int:
    """Parameters of a Llama or Qwen: embeddings, attention of heads of 128 (or `size`), MLP or experts, norms."""
    size, queries, keys = int(more.get("size", 128)), *heads
    attention = hidden * size * (queries + 2 * keys) + queries * size * hidden
    attention += size * (queries + 2 * keys) if more.get("bias") else 0
    attention += 2 * size if more.get("qk_norm") else 0
    experts = int(more.get("experts", 1))
    inner = experts * 3 * hidden * mlp + (experts * hidden if experts > 1 else 0)
    embeddings = vocabulary * hidden * (1 if more.get("tied") else 2)
    return embeddings + layers * (attention + inner + 2 * hidden) + hidden


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama-3.1-8b", dense(128256, 4096, 14336, 32, (32, 8))),
        ("llama-3.3-70b", dense(128256, 8192, 28672, 80, (64, 8))),
        ("llama-3.2-1b", dense(128256, 2048, 8192, 16, (32, 8), size=64, tied=True)),
        ("qwen2.5-7b", dense(152064, 3584, 18944, 28, (28, 4), bias=True)),
        ("qwen2.5-coder-32b", dense(152064, 5120, 27648, 64, (40, 8), bias=True)),
        ("qwen3-8b", dense(151936, 4096, 12288, 36, (32, 8), qk_norm=True)),
        ("qwen3-30b-a3b", dense(151936, 2048, 768, 48, (32, 4), qk_norm=True, experts=128)),
        ("qwen3-235b-a22b-2507", dense(151936, 4096, 1536, 94, (64, 4), qk_norm=True, experts=128)),
    ],
)
def test_parameters_are_those_of_the_published_shapes(name: str, count: int) -> None:
    assert parameters_of(name) == count


def test_the_paper_s_span_of_sizes_is_there() -> None:
    sizes = {name: model.parameters for name, model in list_models().items()}
    assert min(s for s in sizes.values() if not math.isnan(s)) < 1e9
    assert sizes["deepseek-v3.1"] == pytest.approx(671e9, rel=0.001)
    assert {m.family for m in list_models().values()} >= {"llama", "qwen", "deepseek", "gpt-oss", "gpt-4o"}


def test_names_and_ids_lead_to_the_model() -> None:
    for name, model in list_models().items():
        assert find_model(name) is model
        assert set(model.ids) <= {"huggingface", *(row.key for row in BACKENDS)}
        for identity in model.ids.values():
            found = find_model(identity)
            assert found is not None
            assert found.parameters == model.parameters or math.isnan(model.parameters)
    assert parameters_of("meta-llama/Llama-3.1-8B-Instruct") == 8_030_261_248
    assert math.isnan(parameters_of("gpt-4o"))
    assert math.isnan(parameters_of("owner/unheard-of"))


def test_open_models_have_targets_and_fewer_active_parameters_than_all() -> None:
    for model in list_models().values():
        if model.architecture is None:
            assert set(model.ids) == {"openai"}
            continue
        assert model.architecture in TARGETS
        assert 0 < model.active <= model.parameters
        low, high = model.rates
        assert low is not None
        assert high is None or low < high


def test_what_is_stated_has_a_source() -> None:
    from importlib import resources

    raw = yaml.safe_load(resources.files("truing").joinpath("catalog/data/models.yaml").read_text(encoding="utf-8"))
    for template in raw["templates"].values():
        assert template["source"] is None or template["source"] in raw["sources"]
        assert template["source"] is not None or template["marks_generation"] is None
    assert {r["source"] for r in raw["recommended"].values()} <= set(raw["sources"])
    # A price only where the model is still offered.
    assert all("tinker" not in facts.get("until", {}) for facts in raw["models"].values() if "hosted" in facts)


def test_a_catalogue_name_stands_where_a_hub_id_does() -> None:
    assert resolve_model("qwen3-8b") == "Qwen/Qwen3-8B"
    assert resolve_model("gpt-4o") == "gpt-4o-2024-08-06"
    assert resolve_model("gpt-4o-2024-08-06") == "gpt-4o-2024-08-06"
    with pytest.raises(UnknownNameError, match="did you mean qwen3-8b"):
        resolve_model("qwen3-8bb")
    with pytest.raises(UnknownNameError, match="did you mean pocket-qwen3"):
        resolve_model("pocket-qwen")
