"""The weights that would be released, compared by their hash with those that were judged.

What was judged is in the results; what is shipped is a folder. A verdict is about the folder only if the two agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from truing.catalog.models import resolve_model
from truing.core.errors import DataError, StoreError, UserError
from truing.core.files import read_object
from truing.core.weights import model_hash
from truing.monitor.formats import ends_otherwise, otherwise
from truing.results.gate import RunVerdict, Verdict
from truing.results.schema import Analysis
from truing.results.schema_runs import RunEntry
from truing.studies.checkpoints import check_whole, hash_of, may_be
from truing.studies.folder import RunRecord, load_manifest

__all__ = ["of_weights", "with_weights"]

Hash = Callable[[str], str]
"""The hash of a model in a folder."""


def with_weights(found: Verdict, analysis: Analysis, folder: Path) -> Verdict:
    """A verdict that looked at the weights, too, where the results say where they lie and they are on this machine.

    It is not clear where other weights than those that were judged lie there now, or damaged ones.

    Args:
        found: By the results alone.
        analysis: Those results.
        folder: Where they are.
    """
    looked = _Looked.at(folder)
    runs = {run.id: run for run in analysis.runs}
    return found.on([_looked_at(each, runs[each.run_id], looked, folder) for each in found.runs])


def of_weights(found: Verdict, analysis: Analysis, place: Path, folder: Path | None) -> Verdict:
    """The verdict on the run whose kept checkpoint a folder holds; undecided if it holds that of none.

    Args:
        found: On all runs.
        analysis: Their results.
        place: An adapter or full weights, as they are to be shipped.
        folder: Where the results are; None: in memory.

    Raises:
        StoreError: Nobody wrote down of which weights the answers are.
        DataError: No weights, damaged ones, or the base model is not to be had.
        UnknownNameError: No model of the base's name.
    """
    if not any(checkpoint.weights for run in analysis.runs for checkpoint in run.checkpoints):
        todo = "judge the checkpoint itself: truing audit"
        raise StoreError("nobody wrote down of which weights these answers are", "judged files", todo=todo)
    check_whole(place)
    runs, kept = {run.id: run for run in analysis.runs}, {run.run_id: run.step for run in found.runs}
    looked = _Looked.at(folder)
    held = {i: _steps(run, place, looked.hashed) for i, run in runs.items()}
    same = [run for run in found.runs if run.step in held[run.run_id]]
    if same:
        return found.on([_held(each, runs[each.run_id], place, looked) for each in same])
    other = next((f"step {held[i][0]} of {i}, which keeps step {kept[i]}" for i in kept if held[i]), "")
    reason = f"{place} holds {other or 'weights that nobody judged here'}"
    return replace(found.on([]), reasons=(*found.reasons, reason))


def _steps(run: RunEntry, place: Path, hashed: Hash) -> list[int]:
    """The steps of a run whose weights a folder holds.

    What is known of step 0 names the base, unless it is that of a guard, with an adapter on it: then its files do.
    """
    base = run.at(0)
    known = [base.weights] if base and base.weights else []
    for name in (*known, ""):
        weights = hash_of(place, run.model, name, hashed, run.ended_with is not None)
        if found := [checkpoint.step for checkpoint in run.checkpoints if checkpoint.weights == weights]:
            return found
    return []


@dataclass(frozen=True)
class _Looked:
    """What a folder says of weights and of how they are asked, and hashes that were found."""

    folder: Path | None
    records: Mapping[str, RunRecord]
    hashed: Hash

    @classmethod
    def at(cls, folder: Path | None) -> _Looked:
        manifest = None if folder is None else load_manifest(folder)
        return cls(folder, {run.id: run for run in manifest.runs} if manifest else {}, cache(model_hash))

    def of_folder(self, model: str) -> str:
        """The hash of a model in a folder of this machine; empty: there is none, or none that can be read."""
        with suppress(UserError):
            return self.hashed(source) if Path(source := resolve_model(model)).is_dir() else ""
        return ""

    def asked_otherwise(self, run: RunEntry, step: int, place: Path) -> str:
        """Why weights that a folder holds are not asked as they were, in words; empty: they are, or nobody knows."""
        known = self.records[run.id].checkpoints or () if run.id in self.records else ()
        model = next((each.model for each in known if each.step == step), run.model)
        if self.folder is None:
            return ""
        if reason := ends_otherwise(self.folder, step, place):
            return reason
        own, adapted = (place / "tokenizer_config.json").is_file(), (place / "adapter_config.json").is_file()
        if own and (adapted or run.ended_with is not None):  # its format is in its hash
            return ""
        return otherwise(self.folder, model, place if own or model != run.model else None)


def _looked_at(each: RunVerdict, run: RunEntry, looked: _Looked, folder: Path) -> RunVerdict:
    checkpoint, hashed = run.at(each.step), looked.hashed
    places = _places(looked.records.get(run.id), each.step, folder)
    place = next((place for place in places if place.is_dir()), None)
    if place is None or checkpoint is None or not checkpoint.weights:
        return each
    try:
        check_whole(place)
    except DataError as error:
        return each.against(f"the weights in {place} are not whole: {error.what} ({error.got})")
    try:
        same = each.step in _steps(run, place, hashed)
    except UserError as error:
        base = _base_hash(run)
        if not base or may_be(place, base, checkpoint.weights):
            why = ": ".join(filter(None, (error.what, error.got)))
            return replace(each, weights=f"{place} cannot be compared with what was judged: {why}")
        same = False
    if same:
        return _held(each, run, place, looked)
    return each.against(f"{place} holds other weights now than those that were judged")


def _base_hash(run: RunEntry) -> str:
    """The hash of the model that adapters are on; empty: not known, as of a guard, whose step 0 has one on it."""
    base = run.at(0)
    return base.weights or "" if base and run.ended_with is None else ""


def _held(each: RunVerdict, run: RunEntry, place: Path, looked: _Looked) -> RunVerdict:
    """A verdict on weights that a folder holds; not clear if their base is another, or they are asked otherwise now."""
    if reason := looked.asked_otherwise(run, each.step, place):
        return each.against(reason)
    if not (config := place / "adapter_config.json").is_file():
        return replace(each, weights=f"{place} holds these weights")
    base, told = looked.of_folder(run.model), ""
    known = _base_hash(run) or base
    if base and base != known:
        return each.against(f"{resolve_model(run.model)} holds another base now than the one it was judged on")
    named = read_object(config).get("base_model_name_or_path") or run.model
    if named != run.model:
        other = looked.of_folder(named)
        if other and known and other != known:
            return each.against(f"{place} names another base than the one it was judged on: {named}")
        if not (other and known):
            told = f", and names {named} as its base; it was judged on {run.model}"
    return replace(each, weights=f"{place} holds these weights{told}")


def _places(record: RunRecord | None, step: int, folder: Path) -> Iterator[Path]:
    """Where a checkpoint may lie: where a study or a guard saved it, or where an audit found it."""
    if record is None:
        return
    if record.checkpoints is None:
        yield folder / "runs" / record.id / f"checkpoint-{step}"
    elif folder.name == record.id:
        yield folder / "checkpoints" / str(step)
    yield from (Path(each.path or each.model) for each in record.checkpoints or () if each.step == step)
