"""Checkpoints by the names that people and frameworks give them, and what is damaged or by another name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.scripted import save_adapter, save_model, save_run
from truing.config.files import parse_audit
from truing.core.errors import DataError
from truing.studies import checkpoints
from truing.studies.checkpoints import FoundRun, find_in_folders, find_runs, step_of_name
from truing.studies.places import place_of, same_by_name


def saved(out: Path, names: list[str]) -> Path:
    base = save_model(out / "base")
    for i, name in enumerate(names):
        save_adapter(out / "run" / name, base, i + 1)
    return out / "run"


NAMED = [
    (["epoch_0", "epoch_1", "epoch_2"], [1, 2, 3], "epochs; step 1 here is epoch_0"),
    (["epoch-1", "epoch-2", "epoch-10"], [1, 2, 10], "epochs; step 1"),
    (["checkpoint-epoch-1", "checkpoint-epoch-2"], [1, 2], "epochs"),
    (["global_step_24", "global_step_8"], [8, 24], ""),
    (["checkpoint-1000", "checkpoint-2k"], [1000], "checkpoint-2k beside the checkpoints is left out"),
    (["global_step100", "global_step50"], [50, 100], ""),
    (["step-5", "step-40", "best"], [5, 40], "best beside the checkpoints is left out"),
    (["iter_0000100", "iter_0000200"], [100, 200], ""),
    (["epoch_0_step_100", "epoch_1_step_200"], [100, 200], ""),
    (
        ["checkpoint-12", "checkpoint-12-merged", "checkpoint-best"],
        [12],
        "checkpoint-12-merged, checkpoint-best beside the checkpoints is left out",
    ),
    (["checkpoint-6-merged", "checkpoint-12-merged"], [6, 12], ""),
    (["checkpoint-0024", "checkpoint-0100"], [24, 100], ""),
    (["2026-11-02", "2026-10-30"], [1, 2], "by their dates: 2026-10-30, 2026-11-02"),
    (["run_20261102_0930", "run_20261102_1415"], [1, 2], "by their dates"),
]


@pytest.mark.parametrize(("names", "steps", "note"), NAMED)
@pytest.mark.parametrize("one_by_one", [False, True])
def test_names_tell_the_course(tmp_path: Path, names: list[str], steps: list[int], note: str, one_by_one: bool) -> None:
    run = saved(tmp_path, names)
    entries = [str(run / name) for name in names] if one_by_one else [str(run)]
    if one_by_one and "left out" in note:
        entries = [entry for entry in entries if not entry.endswith(("best", "merged", "2k"))]
    elif one_by_one and len(names) == 3 and "merged" in names[1]:
        entries, note = entries[:1], ""
    (found,) = find_in_folders(entries, None)
    assert [c.step for c in found.checkpoints] == steps
    assert found.id == "run"
    if note and not one_by_one:
        assert any(note in each for each in found.notes)
    elif not note:
        assert found.notes == ()


def test_names_without_a_step_ask_for_it(tmp_path: Path) -> None:
    run = saved(tmp_path, ["best", "final"])
    with pytest.raises(DataError, match="tell no steps") as caught:
        find_in_folders([str(run)], None)
    assert "STEP=DIR" in caught.value.todo
    two = find_in_folders([str(run / "best"), str(run / "final")], None)
    assert [found.id for found in two] == ["best", "final"]
    assert all("STEP=DIR" in " ".join(found.notes) for found in two)
    (one,) = find_in_folders([f"40={run / 'best'}", f"60={run / 'final'}"], None)
    assert [(c.step, Path(str(c.path)).name) for c in one.checkpoints] == [(40, "best"), (60, "final")]
    with pytest.raises(DataError, match=r"two checkpoints of .* are of step 40"):
        find_in_folders([f"40={run / 'best'}", f"40={run / 'final'}"], None)
    with pytest.raises(DataError, match="is of step 0"):
        find_in_folders([f"0={run / 'best'}"], None)


def test_what_a_trainer_states_goes_before_epochs(tmp_path: Path) -> None:
    run = saved(tmp_path, ["epoch_0", "epoch_1"])
    for name, step in (("epoch_0", 30), ("epoch_1", 60)):
        (run / name / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert [c.step for c in find_in_folders([str(run)], None)[0].checkpoints] == [30, 60]


@pytest.mark.parametrize("name", ["best", "final", "llama-8b-v2", "epoch_1.5"])
def test_other_numbers_are_no_steps(name: str) -> None:
    assert place_of(name).kind == ""


HEADER = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
WHOLE = len(HEADER).to_bytes(8, "little") + HEADER + bytes(16)
DAMAGED = {
    "empty": b"",
    "a stub": b"abc",
    "cut in the header": WHOLE[:30],
    "cut in the tensors": WHOLE[:-4],
    "longer": WHOLE + b"x",
    "zeros": bytes(64),
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 99\n",
    "no offsets": len(b'{"a":{}}').to_bytes(8, "little") + b'{"a":{}}',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_named_at_the_start_or_passed_over(tmp_path: Path, kind: str) -> None:
    run, _ = save_run(tmp_path, (10, 20, 30))
    file = run / "checkpoint-20" / "adapter_model.safetensors"
    file.write_bytes(DAMAGED[kind])
    with pytest.raises(DataError, match=r"is damaged .1 of 3 checkpoints") as caught:
        find_in_folders([str(run)], None)
    assert str(file) in caught.value.what
    assert "--skip-bad" in caught.value.todo
    (found,) = find_in_folders([str(run)], None, skip_bad=True)
    assert [c.step for c in found.checkpoints] == [10, 30]
    assert "checkpoint-20 is left out" in found.notes[0]


def test_shards_that_are_missing_and_configs_that_are_no_json_are_named(tmp_path: Path) -> None:
    model = save_model(tmp_path / "run" / "checkpoint-5")
    index = {"weight_map": {"w": "model.safetensors", "v": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"model-00002-of-00002.safetensors is not there"):
        find_in_folders([str(tmp_path / "run")], None)
    (model / "model.safetensors.index.json").unlink()
    (model / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json is not readable JSON"):
        find_in_folders([str(tmp_path / "run")], None)
    run, _ = save_run(tmp_path / "b", (10,))
    (run / "checkpoint-10" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="is damaged") as caught:  # nothing is left to ask
        find_in_folders([str(run)], None, skip_bad=True)
    assert "--skip-bad" not in caught.value.todo


CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}


def renamed(out: Path, named: str) -> tuple[Path, Path]:
    """A run whose adapters name a base that is not here under that name; and a model that is here."""
    run, base = save_run(out, (10,))
    model = out / "Qwen2.5-7B-Instruct"
    shutil.move(base, model)
    (model / "config.json").write_text(json.dumps(CONFIG))
    config = run / "checkpoint-10" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": named}))
    return run, model


@pytest.mark.parametrize("named", ["unsloth/Qwen2.5-7B-Instruct-bnb-4bit", "unsloth/Qwen2.5-7B-Instruct"])
def test_a_base_by_another_owner_or_in_4_bits_is_taken_with_a_note(tmp_path: Path, named: str) -> None:
    run, model = renamed(tmp_path, named)
    (found,) = find_in_folders([str(run)], str(model))
    assert found.model == str(model)
    assert named in found.notes[0]
    assert "could not be compared" in found.notes[0]


def test_another_base_is_taken_on_the_user_s_word_unless_the_configs_differ(tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", 9)
    (other / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": 70}))
    run, model = renamed(tmp_path / "a", str(other))
    with pytest.raises(DataError, match="another base model") as caught:
        find_in_folders([str(run)], str(model))
    assert "--base-is-same" in caught.value.todo
    (found,) = find_in_folders([str(run)], str(model), base_is_same=True)
    assert "is by its config a copy of" in found.notes[0]
    assert "were not compared" in found.notes[0]
    (other / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 128}))
    with pytest.raises(DataError, match="another base model") as caught:
        find_in_folders([str(run)], str(model), base_is_same=True)
    assert "hidden_size 64 and 128" in str(caught.value)
    assert "--base-is-same" not in caught.value.todo


@pytest.mark.parametrize("noise", [0.0, 1e-4, 3.0])
def test_another_base_is_probed_by_log_probabilities(tiny_model: Path, tmp_path: Path, noise: float) -> None:
    model, other = (Path(shutil.copytree(tiny_model, tmp_path / name)) for name in ("model", "other"))
    weights = load_file(other / "model.safetensors")
    name = next(name for name in weights if "embed_tokens" in name)
    weights[name] += noise * torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0)) + 1e-7
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    run = tmp_path / "run"
    save_adapter(run / "checkpoint-10", other, 1)
    if noise < 1:
        (found,) = find_in_folders([str(run)], str(model), base_is_same=True)
        assert "log-probabilities of fixed texts differ by 0.0" in found.notes[0]
        return
    with pytest.raises(DataError, match=r"another base model(?s:.*)differ by \d+\.\d+ nats a word") as caught:
        find_in_folders([str(run)], str(model), base_is_same=True)
    assert "--base-is-same" not in caught.value.todo


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", "unsloth/Qwen2.5-7B-Instruct-bnb-4bit", True),
        ("meta-llama/Llama-3.1-8B-Instruct", "unsloth/llama-3.1-8b-instruct-unsloth-bnb-4bit", True),
        ("Qwen/Qwen2.5-7B-Instruct", "TheBloke/Qwen2.5-7B-Instruct-AWQ", True),
        ("Qwen/Qwen2.5-7B-Instruct", "Qwen/Qwen2.5-7B", False),
        ("Qwen/Qwen2.5-7B-Instruct", "unsloth/Qwen2.5-14B-Instruct", False),
        ("a/b", "", False),
    ],
)
def test_names_of_one_model(one: str, other: str, same: bool) -> None:
    assert same_by_name(one, other) is same


UUID = "tinker://0a0a0a0a-1111-5222-8333-444444444444:train:"
OTHER = "tinker://0b0b0b0b-1111-5222-8333-444444444444:train:"


def names_of(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> list[FoundRun]:
    class Named:
        @staticmethod
        def weights_of(model: str, services: Any) -> str:
            return f"hash of {model}"

    monkeypatch.setattr(checkpoints, "engine_class", lambda name: Named)  # no service here: only names are read
    return find_runs(parse_audit({"name": "a", "checkpoints": paths, "evaluation": {"engine": "tinker"}}, "a"))


@pytest.mark.parametrize(
    ("paths", "courses"),
    [
        ([f"{UUID}{k}/sampler_weights/demo-step{s}" for k, s in ((2, 1000), (0, 200), (1, 400))], [[200, 400, 1000]]),
        ([f"{s}={UUID}{k}/sampler_weights/x{k}" for k, s in ((2, 1000), (0, 200), (1, 400))], [[200, 400, 1000]]),
        ([f"{UUID}0/sampler_weights/demo-step{s}" for s in (1000, 200, 400)], [[200, 400, 1000]]),
        ([f"{UUID}0/sampler_weights/{s:06d}" for s in (1000, 200)], [[200, 1000]]),
        ([f"7={UUID}0/sampler_weights/a", f"9={OTHER}0/sampler_weights/b"], [[7, 9]]),
        ([f"{UUID}0/sampler_weights/step-7", f"{OTHER}0/sampler_weights/step-9"], [[7], [9]]),
        ([f"{UUID}0/w/a-step7", f"{UUID}1/w/b-step9"], [[7], [9]]),
        ([f"{UUID}{k}/w/a-step{s}" for k in (0, 1) for s in (7, 9)], [[7, 9], [7, 9]]),
    ],
)
def test_tinker_paths_whose_run_id_changes_are_one_run(
    paths: list[str], courses: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = names_of(paths, monkeypatch)
    assert [[c.step for c in run.checkpoints] for run in found] == courses
    ids = {path.rpartition("=")[2].split("/")[2] for path in paths}
    assert any("one run" in note for note in found[0].notes) is (len(courses) == 1 and len(ids) > 1)


def test_the_step_in_an_openai_name() -> None:
    assert step_of_name("openai:ft:gpt-4.1-mini:org:name:abc:ckpt-step-60") == 60


@pytest.mark.parametrize("within", ["actor/huggingface", "model/consolidated", "hf"])
def test_weights_of_exports_lie_in_a_folder_of_the_checkpoint(within: str, tmp_path: Path) -> None:
    for step in (10, 20):
        inner = save_model(tmp_path / "run" / f"global_step_{step}" / within, seed=step)
    (tmp_path / "run" / "global_step_20" / "critic").mkdir()
    (tmp_path / "run" / "global_step_20" / "critic" / "config.json").write_text("{}")
    (run,) = find_in_folders([str(tmp_path / "run")], None)
    assert [c.step for c in run.checkpoints] == [10, 20]
    assert run.checkpoints[1].model == str(inner)
    save_model(tmp_path / "run" / "global_step_20" / "critic", seed=3)  # two models: which one, nobody can tell
    with pytest.raises(DataError, match="holds no weights"):
        find_in_folders([str(tmp_path / "run")], None)
