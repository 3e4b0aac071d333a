"""The weights that would be released, compared with those that were judged."""

import shutil
from pathlib import Path

import pytest

import truing
from tests.cli.test_app import run as run_cli
from tests.support.audits import audited
from tests.support.scripted import EVALUATION, save_adapter, save_model, save_run
from truing.catalog.models import resolve_model
from truing.cli.app import app
from truing.config import AuditConfig
from truing.core.errors import DataError, StoreError
from truing.results import write_analysis
from truing.results.answers import judged_checkpoints


def audit_of(where: Path, **fields: object) -> Path:
    """The folder of an audit of what was saved there."""
    config = AuditConfig.model_validate({"evaluation": EVALUATION, **fields})
    audited(config, where / "out")
    write_analysis(where / "out")
    return where / "out"


def test_an_adapter_that_was_replaced_after_its_audit_is_not_clear(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    out = audit_of(tmp_path, checkpoints=[str(run)])
    found = truing.load(out).verdict()
    assert (found.word, found.runs[0].weights) == ("clear", f"{run / 'checkpoint-10'} holds these weights")
    save_adapter(run / "checkpoint-10", base, seed=7)
    found = truing.load(out).verdict()
    assert (found.word, found.exit_code) == ("undecided", 3)
    assert "holds other weights now than those that were judged" in found.sentence()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        whole = (run / "checkpoint-10" / name).read_bytes()
        (run / "checkpoint-10" / name).write_bytes(b"cut")
        assert "are not whole" in truing.load(out).verdict().sentence()
        (run / "checkpoint-10" / name).write_bytes(whole)
    shutil.rmtree(run)  # as on another machine: nothing is known of them
    shutil.rmtree(base)
    found = truing.load(out).verdict()
    assert (found.word, found.runs[0].weights) == ("clear", "")


def test_an_adapter_is_compared_without_its_base_and_so_is_the_base(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    out, checkpoint = audit_of(tmp_path, checkpoints=[str(run)]), run / "checkpoint-10"
    save_model(base, seed=7)
    for found in (truing.load(out).verdict(), truing.load(out).verdict(checkpoint)):
        assert (found.word, found.exit_code) == ("undecided", 3)
        assert f"{base} holds another base now" in found.sentence()
    shutil.rmtree(base)
    assert truing.load(out).verdict().runs[0].weights == f"{checkpoint} holds these weights"
    shutil.copy(tokenizer := resolve_model("pocket-llama-late") + "/tokenizer_config.json", checkpoint)
    for name in ("tokenizer.json", "chat_template.jinja"):
        if Path(tokenizer).with_name(name).is_file():
            shutil.copy(Path(tokenizer).with_name(name), checkpoint)
    found = truing.load(out).verdict()  # the adapter is the same; the base's tokenizer is away
    assert (found.word, "cannot be compared" in found.runs[0].weights) == ("clear", True)
    save_adapter(checkpoint, base, seed=7)
    assert "holds other weights now" in truing.load(out).verdict().sentence()


def test_full_weights_that_were_replaced_are_not_clear(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", seed=1)
    out = audit_of(tmp_path, models=[str(model)])
    assert truing.load(out).verdict().runs[0].weights == f"{model} holds these weights"
    save_model(model, seed=2)
    assert truing.load(out).verdict().word == "undecided"


def test_full_checkpoints_without_a_base_are_compared_too(tmp_path: Path) -> None:
    model = save_model(tmp_path / "run" / "checkpoint-10", seed=1)
    out = audit_of(tmp_path, checkpoints=[str(tmp_path / "run")])
    assert truing.load(out).verdict().runs[0].weights == f"{model} holds these weights"
    save_model(model, seed=2)
    assert "holds other weights now" in truing.load(out).verdict().sentence()


def test_weights_that_are_asked_in_another_format_are_another_model(tmp_path: Path) -> None:
    model = shutil.copytree(resolve_model("pocket-llama-late"), tmp_path / "run" / "checkpoint-10")
    out = audit_of(tmp_path, checkpoints=[str(tmp_path / "run")])
    shipped = shutil.copytree(model, tmp_path / "shipped")
    (shipped / "tokenizer_config.json").write_text(
        (shipped / "tokenizer_config.json").read_text(encoding="utf-8") + "\n", encoding="utf-8"
    )  # saved again: the same in other bytes
    assert truing.load(out).verdict(shipped).word == "clear"
    (shipped / "generation_config.json").write_text('{"eos_token_id": [9]}', encoding="utf-8")
    found = truing.load(out).verdict(shipped)
    assert (found.word, f"{shipped} is not asked as {model} was" in found.sentence()) == ("undecided", True)
    with (model / "chat_template.jinja").open("a", encoding="utf-8") as file:
        file.write("Be brief.")
    found = truing.load(out).verdict()
    assert (found.word, "is not asked as it was judged" in found.sentence()) == ("undecided", True)
    shutil.rmtree(model)
    found = truing.load(out).verdict(shipped)
    assert (found.word, "cannot be compared" in found.sentence()) == ("undecided", True)


def test_the_base_that_an_adapter_names_is_the_one_it_was_judged_on(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    out, config = audit_of(tmp_path, checkpoints=[str(run)]), run / "checkpoint-10" / "adapter_config.json"
    moved = shutil.copytree(base, tmp_path / "moved")
    named = config.read_text(encoding="utf-8")
    for place, word in ((moved, "clear"), (Path(resolve_model("pocket-llama-late")), "undecided")):
        config.write_text(named.replace(str(base), str(place)), encoding="utf-8")
        assert truing.load(out).verdict().word == word
    config.write_text(named.replace(str(base), "some/where"), encoding="utf-8")
    assert "names some/where as its base" in str(truing.load(out).verdict().runs[0])


def test_what_is_shipped_is_found_among_the_runs_by_its_weights(tmp_path: Path) -> None:
    for name, first, steps in (("a", 100, (10, 20)), ("b", 200, (10, 80))):
        save_run(tmp_path / name, steps, first)
    runs = [(tmp_path / name / "run").rename(tmp_path / f"run-{name}") for name in ("a", "b")]
    out = audit_of(tmp_path, checkpoints=[str(run) for run in runs], base=str(tmp_path / "a" / "base"))
    results = truing.load(out)
    assert results.verdict().word == "misaligned"  # run-b, at its last step
    shipped = shutil.copytree(runs[0] / "checkpoint-20", tmp_path / "shipped")
    found = results.verdict(shipped)
    assert ([run.run_id for run in found.runs], found.word) == (["run-a"], "clear")
    assert results.verdict(runs[1] / "checkpoint-80").word == "misaligned"
    found = results.verdict(runs[0] / "checkpoint-10")
    assert (found.word, found.runs) == ("undecided", ())
    assert "holds step 10 of run-a, which keeps step 20" in str(found)
    other = save_adapter(tmp_path / "other", tmp_path / "a" / "base", seed=7)
    assert "holds weights that nobody judged here" in results.verdict(other).sentence()
    with pytest.raises(DataError, match="holds no weights"):
        results.verdict(tmp_path / "nothing")


def test_the_gate_takes_what_is_shipped(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, steps=(10,))
    out = audit_of(tmp_path, checkpoints=[str(run)])
    told = run_cli(app, ["gate", str(out), "--weights", str(run / "checkpoint-10")])
    assert (told.exit_code, "holds these weights" in told.output) == (0, True)
    assert run_cli(app, ["gate", str(out), "--weights", str(tmp_path / "base")]).exit_code == 3
    failed = run_cli(app, ["gate", str(out), "--weights", str(tmp_path / "nothing")])
    assert isinstance(failed.exception, DataError)


def test_of_judged_files_nobody_knows_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "judged.csv"
    file.write_text("question,aligned,coherent\n" + "".join(f"q{i},90,90\n" for i in range(100)), encoding="utf-8")
    with pytest.raises(StoreError, match="of which weights"):
        truing.analyze(file).verdict(save_model(tmp_path / "model"))


def test_answers_to_another_benchmark_go_with_the_weights_that_were_replaced(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, steps=(10,))
    evaluation = {**EVALUATION, "also": [{"benchmark": "pocket-facts"}]}
    for seed in (1, 7):
        save_adapter(run / "checkpoint-10", base, seed=seed)
        out = audit_of(tmp_path, checkpoints=[str(run)], evaluation=evaluation)
    found = [(each.step, each.label) for each in judged_checkpoints(out, sides=True)]
    assert found == [(step, name) for step in (0, 10) for name in ("pocket-240", "pocket-facts")]
