"""How far the work in folders is, also while somebody works there or where nobody may write."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_app import run
from tests.conftest import small_study
from tests.studies.test_watch import poll, save, watching
from tests.support.scripted import EVALUATION, WordJudge, save_run
from tests.support.studies import make_study
from truing.backends.endpoint.journal import Journal, Paid, read_accounts
from truing.cli.app import app
from truing.config import AuditConfig
from truing.core.errors import StoreError
from truing.core.files import write_json
from truing.monitor import open_store
from truing.studies.audit import run_audit
from truing.studies.folder import load_manifest
from truing.studies.run import open_study
from truing.studies.status import read_status


def test_a_study_that_has_not_begun_is_owed(tmp_path: Path) -> None:
    open_study(small_study("pocket-llama-late"), tmp_path / "s").release()
    found = read_status(tmp_path / "s")
    assert (found.kind, found.name, found.counts, found.left) == ("study", "small", {"owed": 1}, None)
    assert (found.runs[0].owed, found.runs[0].step) == (4, None)
    with pytest.raises(StoreError, match="nothing has begun"):
        read_status(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_study_in_the_middle_of_it(tmp_path: Path) -> None:
    out = tmp_path / "s"
    config = make_study(out)
    done, failed = (r.id for r in config.runs())
    (out / "runs" / done).mkdir(parents=True)
    found = read_status(out)
    assert {r.id: r.state for r in found.runs} == {done: "running", failed: "owed"}
    for r in found.runs:
        assert (r.step, r.evaluated, r.owed) == (6, 3, 1)
        assert (r.answers, r.missing) == (1440, 3 * (3 + 4) * 2)
    store = open_store(out)
    times = sorted(store.written("evaluations", key) for key in store.keys("evaluations"))
    taken = (times[-1] - times[0]).total_seconds()
    assert found.left == pytest.approx(2 * taken / 5, abs=1e-4)  # six were evaluated, two are owed
    write_json(out / "runs" / done / "run.json", {"state": "finished", "step": 6, "error": None})
    write_json(out / "runs" / failed / "run.json", {"state": "failed", "step": 6, "error": "out of memory"})
    found = read_status(out)
    assert {r.id: (r.state, r.reasons) for r in found.runs} == {
        done: ("done", ()),
        failed: ("failed", ("out of memory",)),
    }
    old = 1e9
    for path in out.rglob("*"):
        os.utime(path, (old, old))
    assert read_status(out).changed == old
    assert not read_status(out).running


def test_an_audit_and_a_watch(tmp_path: Path) -> None:
    run_folder, base = save_run(tmp_path, steps=(10,))
    with watching(run_folder, tmp_path / "w") as (watch, _):
        assert read_status(tmp_path / "w").kind == "watch"
        poll(watch)
        half = save(run_folder, 20, base) / "adapter_config.json"
        half.unlink()
        WordJudge.failing = 5
        save(run_folder, 50, base)
        poll(watch)
        found = read_status(tmp_path / "w")  # while it watches
        assert (found.runs[0].state, found.runs[0].step, found.runs[0].owed) == ("running", 50, 0)
        assert (found.runs[0].answers, found.runs[0].missing) == (720, 5)
        assert "2 evaluated, 1 not whole" in found.notes[0]
        assert "checkpoint-20, not whole: " in found.notes[1]
        assert "Stop at step 50." in found.notes[2]
        watch.finish()
    found = read_status(tmp_path / "w")
    assert (found.counts, found.running, found.notes[-1]) == ({"done": 1}, False, "The watch has ended.")
    (tmp_path / "w" / "watch.json").unlink()
    manifest = load_manifest(tmp_path / "w")
    assert manifest is not None
    lost = manifest.runs[0].checkpoints[-1].model_copy(update={"step": 60, "weights": "w", "error": "no server"})
    guarded = manifest.runs[0].model_copy(update={"checkpoints": (*manifest.runs[0].checkpoints, lost)})
    manifest.model_copy(update={"kind": "guard", "runs": (guarded,)}).write(tmp_path / "w")
    (told,) = read_status(tmp_path / "w").runs
    assert (told.state, told.owed, told.reasons) == ("failed", 1, ("step 60: no server",))
    half.parent.joinpath("trainer_state.json").unlink()
    config = {"name": "a", "checkpoints": [str(run_folder)], "evaluation": EVALUATION, "skip_bad": True}
    run_audit(AuditConfig.model_validate(config), tmp_path / "a")
    found = read_status(tmp_path / "a")
    assert (found.kind, found.counts, found.left) == ("audit", {"done": 1}, 0.0)
    result = run(app, ["status", str(tmp_path / "a"), "--json"])
    assert json.loads(result.output)["runs"][0]["evaluated"] == 3
    assert "audit a: 1 done" in run(app, ["status", str(tmp_path / "a")]).output


def test_costs_are_read_while_calls_are_written(tmp_path: Path) -> None:
    out = tmp_path / "s"
    open_study(small_study("pocket-llama-late"), out).release()
    journal = Journal(out / "calls.sqlite")
    journal.write([Paid("judge", bytes([i]), "{}", 10, 1, 0.5) for i in range(4)], "live")
    with journal.transaction():  # another process that writes does not hinder it
        command = [sys.executable, "-m", "truing", "status", str(out), "--json"]
        told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(told.stdout)["accounts"][0]["cost"] == 2.0
    journal.close()
    before = sorted(path.name for path in out.rglob("*"))
    assert "judge (live): 4 calls, 40 + 4 tokens, $2.0000" in run(app, ["status", str(out)]).output
    assert sorted(path.name for path in out.rglob("*")) == before
    (out / "calls.sqlite").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(StoreError, match="cannot be read"):
        read_accounts(out / "calls.sqlite")
