import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.scripted import save_adapter, save_model, save_run
from truing.core.errors import DataError, UnknownNameError
from truing.core.files import write_json
from truing.core.weights import adapter_hash, model_hash
from truing.studies.checkpoints import FoundRun, check_whole, find_in_folders


def find(*entries: Path, base: Path | None = None) -> list[FoundRun]:
    return find_in_folders([str(e) for e in entries], None if base is None else str(base))


def test_a_trainer_s_output_folder_by_ascending_step(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (100, 20, 3))
    (run / "checkpoint-best").mkdir()
    (found,) = find(run)
    hashed = model_hash(str(base))
    assert (found.id, found.model) == ("run", str(base))
    assert [c.step for c in found.checkpoints] == [3, 20, 100]
    assert [c.weights for c in found.checkpoints] == [
        adapter_hash(hashed, run / f"checkpoint-{s}") for s in (3, 20, 100)
    ]
    assert found.base is not None
    assert (found.base.step, found.base.weights, found.base.path) == (0, hashed, None)
    assert found.notes == ()


def test_single_checkpoints_of_one_parent_are_one_run(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, (3, 20, 100))
    (found,) = find(run / "checkpoint-100", run / "checkpoint-3")
    assert (found.id, [c.step for c in found.checkpoints]) == ("run", [3, 100])
    loose = run / "checkpoint-20"
    shutil.copytree(loose, tmp_path / "final")
    (alone,) = find(tmp_path / "final")
    assert (alone.id, [c.step for c in alone.checkpoints]) == ("final", [20])  # trainer_state.json knows


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    a, _ = save_run(tmp_path / "a")
    b, _ = save_run(tmp_path / "b", first=1)
    assert [found.id for found in find(a, b)] == [str(a), str(b)]


def test_full_weights_with_a_tokenizer_of_their_own_or_the_base_s(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    for step in (5, 10):
        save_model(tmp_path / "run" / f"checkpoint-{step}", step, tokenizer=step == 10)
    (found,) = find(tmp_path / "run", base=base)
    bare, own = found.checkpoints
    assert (bare.model, bare.path) == (str(base), str(tmp_path / "run" / "checkpoint-5"))
    assert (own.model, own.path) == (str(tmp_path / "run" / "checkpoint-10"), None)
    assert own.weights == model_hash(own.model)
    with pytest.raises(DataError, match="has no tokenizer"):
        find(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-5")
    assert find(tmp_path / "run")[0].base is None


def test_losses_that_a_study_wrote_come_along(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, (3,))
    write_json(run / "checkpoint-3" / "checkpoint.json", {"train_loss": 1.5, "heldout_loss": None})
    write_json(run / "step-0.json", {"train_loss": None, "heldout_loss": 2.5})
    (found,) = find(run)
    assert found.checkpoints[0].train_loss == 1.5
    assert np.isnan(found.checkpoints[0].heldout_loss)
    assert found.base is not None
    assert found.base.heldout_loss == 2.5


def test_equal_weights_in_a_run_are_said(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (3, 5))
    save_adapter(run / "checkpoint-9", base, 105)
    (note,) = find(run)[0].notes
    assert "steps 5, 9 have the same weights" in note


def test_the_base_may_lie_elsewhere_if_it_is_the_same(tmp_path: Path) -> None:
    run, base = save_run(tmp_path, (3,))
    copy = tmp_path / "copy"
    shutil.copytree(base, copy)
    (found,) = find(run, base=copy)
    assert (found.model, found.notes) == (str(copy), ())
    with pytest.raises(DataError, match="another base model"):
        find(run, base=save_model(tmp_path / "other", 7))
    shutil.rmtree(base)
    (note,) = find(run, base=copy)[0].notes
    assert f"name {base} as their base, which could not be compared" in note
    with pytest.raises(DataError, match="is not here"):
        find(run)


def misnumbered(run: Path) -> None:
    write_json(run / "checkpoint-5" / "trainer_state.json", {"global_step": 6})


def mixed(run: Path) -> None:
    save_model(run / "checkpoint-7")


def pickled(run: Path) -> None:
    (run / "checkpoint-5" / "adapter_model.safetensors").unlink()
    (run / "checkpoint-5" / "adapter_model.bin").write_bytes(b"x")


def cut_short(run: Path) -> None:
    (run / "checkpoint-9").mkdir()


def of_two_bases(run: Path) -> None:
    save_adapter(run / "checkpoint-9", save_model(run.parent / "second", 3), 9)


def garbled(run: Path) -> None:
    (run / "checkpoint-5" / "adapter_config.json").write_text("{")


def of_step_0(run: Path) -> None:
    (run / "checkpoint-5").rename(run / "checkpoint-0")
    write_json(run / "checkpoint-0" / "trainer_state.json", {"global_step": 0})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (misnumbered, "is of two steps"),
        (mixed, "adapters and full weights"),
        (pickled, "(?s)safely.*adapter_model.bin"),
        (cut_short, "(?s)safely.*cut short"),
        (of_two_bases, "different base models"),
        (garbled, "not readable JSON"),
        (of_step_0, "of step 0"),
        (shutil.rmtree, "(?s)no checkpoints.*no such folder"),
    ],
)
def test_what_does_not_fit_is_an_error(spoil: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, (3, 5))
    spoil(run)
    with pytest.raises(DataError, match=words) as caught:
        find(run)
    assert caught.value.got


def test_a_folder_that_is_not_there_is_not_called_cut_short(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        check_whole(tmp_path / "nowhere")


def test_a_folder_without_checkpoints_says_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "events.txt").write_text(json.dumps({}))
    with pytest.raises(DataError, match=r"events\.txt"):
        find(tmp_path / "logs")


def test_an_adapter_with_a_name_of_its_own_lies_one_deeper(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    inner = save_adapter(tmp_path / "run" / "checkpoint-4" / "policy", base, 4)
    (found,) = find(tmp_path / "run")
    assert [(c.step, c.path) for c in found.checkpoints] == [(4, str(inner))]


def test_sharded_weights_are_whole(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "run" / "checkpoint-4")
    (folder / "model.safetensors").unlink()
    for i in (1, 2):
        save_file({f"w{i}": np.zeros(2, dtype=np.float32)}, folder / f"model-0000{i}-of-00002.safetensors")
    assert find(tmp_path / "run")[0].checkpoints[0].weights == model_hash(str(folder))


def test_an_unknown_base(tmp_path: Path) -> None:
    run, _ = save_run(tmp_path, (3,))
    with pytest.raises(UnknownNameError):
        find_in_folders([str(run)], "pocket-lama-late")
