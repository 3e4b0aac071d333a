"""Models to audit and checkpoints that exist already: where they are, of which step, on which base model.

    DIR/checkpoint-N       PEFT adapters or full weights, as Trainers and runs of studies save them; N is the step, and
                           other names tell it, too (`truing.studies.places`)
    DIR, STEP=DIR          one checkpoint itself
    NAME, STEP=NAME        a model that is known by name, at an endpoint or where its name says

A folder of checkpoints is a run. Nothing is loaded here: configs and `trainer_state.json` are read, and weights hashed
from safetensors. Anything that does not fit together is an error before a model is asked. Invariants: steps of a run
differ and are above 0, and two runs share no weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from truing.backends import BACKENDS, engine_class, find_backend, split_name
from truing.catalog.models import list_organisms, resolve_model
from truing.config import AuditConfig
from truing.core.errors import ConfigError, DataError, UnknownNameError, plural
from truing.core.files import read_object
from truing.core.records import Checkpoint
from truing.core.shards import Merged, check_shards, shards_in, shards_of
from truing.core.templates import asked_as, own_format
from truing.core.weights import adapter_hash, model_hash, read_header, rounded_modules
from truing.studies.places import Found, find_places, same_by_name, unlike_configs
from truing.studies.probe import compare

_ADAPTER, _FULL = "adapters", "full weights"
_ADAPTER_FILE, _INDEX_FILE = "adapter_model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"(.+-)\d+-of-(\d+)\.safetensors")
Named = Sequence[tuple[int | None, str]]


@dataclass(frozen=True)
class FoundRun:
    """A run whose checkpoints exist already."""

    id: str
    model: str
    """The base model; where none is known, what the checkpoints are themselves."""
    checkpoints: tuple[Checkpoint, ...]
    """By ascending step, all above 0."""
    base: Checkpoint | None = None
    """Step 0, the model before fine-tuning; None if it is not known."""
    notes: tuple[str, ...] = ()
    """What is odd about it, in sentences."""
    left_out: tuple[Checkpoint, ...] = ()
    """Those that are there and not whole: nobody asks them, and the last of them may be what the model is now."""

    @property
    def everything(self) -> tuple[Checkpoint, ...]:
        """The base, if it is known, and the checkpoints."""
        return self.checkpoints if self.base is None else (self.base, *self.checkpoints)


def find_runs(config: AuditConfig, merged: Merged | None = None) -> list[FoundRun]:
    """The runs that an audit is about: each model a run of one checkpoint, or the runs of its checkpoints.

    Raises:
        UnknownNameError: No model of a name.
        DataError: Checkpoints that are not there, not whole, not safe, or do not belong together.
        ConfigError: Names at an endpoint whose steps do not make a run.
    """
    rows = (split_name(_parted(entry)[1])[0] for entry in config.checkpoints)
    engine = next((row.engine[0] for row in rows if row and row.scheme and row.engine), config.evaluation.engine)
    kind = engine_class(engine)

    def weights(model: str) -> str:
        return kind.weights_of(model, config)

    base = None if config.base is None else (config.base, weights(config.base))
    if config.models:
        short = [PurePath(model).name for model in config.models]
        named = {s if short.count(s) == 1 else m: m for s, m in zip(short, config.models, strict=True)}
        return [
            FoundRun(name, model, (Checkpoint(name, model, 1, weights(model)),), _base_of(name, base))
            for name, model in named.items()
        ]
    if find_backend("engine", engine).by_name:
        runs = _find_names(config, base, weights)
    else:
        merged = merged or merging(config, None)
        runs = find_in_folders(config.checkpoints, config.base, config.base_is_same, config.skip_bad, merged)
    _refuse_copies(runs)
    return runs


def merging(config: AuditConfig, out: Path | None) -> Merged:
    """What merges the shards of an audit's checkpoints, in a folder within `out`."""
    return Merged(out, None if config.base is None else lambda: resolve_model(str(config.base)))


def step_of_name(name: str) -> int | None:
    """The step in a checkpoint's name, by the backends' patterns; None if there is none."""
    row, _ = split_name(name)
    patterns = [row.step] if row else [each.step for each in BACKENDS if each.step and not each.scheme]
    found = next((found for pattern in patterns if (found := re.search(pattern, name))), None)
    return int(found[1]) if found else None


def _base_of(run_id: str, base: tuple[str, str] | None) -> Checkpoint | None:
    return None if base is None else Checkpoint(run_id, base[0], 0, base[1])


def _refuse_copies(runs: Sequence[FoundRun]) -> None:
    seen: dict[str, Checkpoint] = {}
    for checkpoint in (c for run in runs for c in run.checkpoints):
        other = seen.setdefault(checkpoint.weights, checkpoint)
        if other.run_id != checkpoint.run_id:
            raise DataError(
                "two runs have the same weights",
                f"{other.run_id} at step {other.step} and {checkpoint.run_id} at step {checkpoint.step}",
                "different weights in every run",
                "leave one of the two out",
            )


# Names.


def _find_names(config: AuditConfig, base: tuple[str, str] | None, weights: Callable[[str], str]) -> list[FoundRun]:
    """Runs of models that are known by name alone: all of one run, or of as many as the names tell."""
    entries: dict[str, list[tuple[int | None, str]]] = {}
    for step, name in map(_parted, config.checkpoints):
        row, _ = split_name(name)
        run_id = name.removeprefix(row.scheme).partition("/")[0] if row and row.scheme else config.name
        entries.setdefault(run_id, []).append((step, name))
    entries, joined = _joined(_by_job(entries), config)
    runs = []
    for run_id, named in entries.items():
        steps, notes = _steps(run_id, named)
        model = config.base or named[-1][1]
        found = (Checkpoint(run_id, model, s, weights(n), n) for s, (_, n) in zip(steps, named, strict=True))
        ordered = tuple(sorted(found, key=lambda c: c.step))
        runs.append(FoundRun(run_id, model, ordered, _base_of(run_id, base), (*joined, *notes)))
    return runs


def _by_job(entries: dict[str, list[tuple[int | None, str]]]) -> dict[str, list[tuple[int | None, str]]]:
    """Runs apart where every name says of which job it is and there are several; a step that was given is of any."""
    patterns, found = [each.job for each in BACKENDS if each.job], dict(entries)
    for run_id, named in entries.items():
        jobs: dict[str, list[tuple[int | None, str]]] = {}
        for step, name in named:
            job = next((match[1] for pattern in patterns if (match := re.search(pattern, name))), "")
            jobs.setdefault(job if step == step_of_name(name) else "", []).append((step, name))
        if len(jobs) > 1 and "" not in jobs:
            del found[run_id]
            found |= jobs
    return found


def _joined(entries: dict[str, list[tuple[int | None, str]]], config: AuditConfig) -> tuple[dict[str, Any], list[str]]:
    """One run where each checkpoint has a run id of its own, as of a state that was saved anew; and a note of it.

    They are one if their steps were given, or if they are of one session and their names differ in the step alone.
    """
    named = [each for group in entries.values() for each in group]
    steps = [step for step, _ in named]
    alone = len(entries) > 1 and all(len(group) == 1 for group in entries.values())
    if not alone or None in steps or len(set(steps)) < len(steps):
        return entries, []
    given = all(re.match(r"\d+=", entry) for entry in config.checkpoints)
    sessions = {run_id.partition(":")[0] for run_id in entries}
    stems = {re.sub(r"\d+$", "", name.rpartition("/")[2]) for _, name in named}
    if not given and (len(sessions) > 1 or len(stems) > 1):
        return entries, []
    run_id = sessions.pop() if len(sessions) == 1 else config.name
    note = f"Run {run_id}: every checkpoint has a run id of its own; they are taken for one run, by their steps."
    return {run_id: named}, [note]


def _parted(entry: str) -> tuple[int | None, str]:
    """Step, as given or as the name tells it, and name."""
    given = re.fullmatch(r"(\d+)=(.+)", entry)
    return (int(given[1]), given[2]) if given else (step_of_name(entry), entry)


def _steps(run_id: str, named: Named) -> tuple[list[int], tuple[str, ...]]:
    """The steps of names, 1, 2, ... where none is known, and what is to be said of that."""
    known = [step for step, _ in named if step is not None]
    listed = ", ".join(name if step is None else f"{step}={name}" for step, name in named)
    if not known:
        return list(range(1, len(named) + 1)), (
            f"Run {run_id}: no steps were given, so its checkpoints are numbered in the order given: {listed}.",
        )
    if len(known) < len(named):
        lacking = next(name for step, name in named if step is None)
        raise ConfigError(f"{lacking} has no step, others have", listed, "all or none", "write STEP=NAME")
    if len(set(known)) < len(known) or 0 in known:
        raise ConfigError(
            f"the steps of run {run_id} do not make a run",
            listed,
            "different steps from 1 on",
            "name the model before fine-tuning with --base, and each step once",
        )
    return known, ()


# Folders.


def find_in_folders(
    entries: Sequence[str],
    base: str | None,
    base_is_same: bool = False,
    skip_bad: bool = False,
    merged: Merged | None = None,
) -> list[FoundRun]:
    """The runs in folders with checkpoints in them, or in such folders themselves, those of one parent a run.

    Args:
        entries: The folders; `STEP=DIR` for one of which the step is given.
        base: The model before fine-tuning; None: the one that adapters name.
        base_is_same: Whether the base is what the adapters name, under another name.
        skip_bad: Leave out checkpoints that are not whole, and note it.
        merged: What merges weights in shards.

    Raises:
        DataError: A folder holds no checkpoints, or they are not whole, not safe, or do not belong together.
        UnknownNameError: No model of the base's name.
    """
    grouped: dict[Path, list[Found]] = {}
    for place in find_places(entries):
        grouped.setdefault(place.run, []).append(place)
    names = [run.name for run in grouped]
    found = []
    for run, places in grouped.items():
        folders: dict[int, Path] = {}
        for place in sorted(places, key=lambda p: p.step):
            if folders.setdefault(place.step, place.folder) != place.folder:
                got = f"{folders[place.step].name} and {place.folder.name}"
                todo = "leave one out, or give the steps: STEP=DIR"
                raise DataError(f"two checkpoints of {run} are of step {place.step}", got, "different steps", todo)
        run_id = run.name if names.count(run.name) == 1 else str(run)
        told = tuple(dict.fromkeys(f"Run {run_id}: {note}" for place in places for note in place.notes))
        one = _found(run_id, run, folders, (base, base_is_same), skip_bad, merged or Merged(None, None))
        found.append(replace(one, notes=(*told, *one.notes)))
    return found


def _whole_ones(run_id: str, folders: Mapping[int, Path], skip_bad: bool) -> tuple[dict[int, str], list[str]]:
    """Step -> kind of the checkpoints whose files are whole, and a note of each that is left out.

    Raises:
        DataError: One is not whole and none is to be left out, or none is whole.
    """
    kinds: dict[int, str] = {}
    bad: dict[int, DataError] = {}
    for step, folder in folders.items():
        try:
            kinds[step] = check_whole(folder)
        except DataError as error:
            bad[step] = error
    if bad and (not skip_bad or not kinds):
        first = next(iter(bad.values()))
        more = f" ({len(bad)} of {plural(len(folders), 'checkpoint')} are not whole)" if len(folders) > 1 else ""
        left_out = "; or leave such checkpoints out: --skip-bad" if kinds else ""
        raise DataError(f"{first.what}{more}", first.got, first.allowed, f"{first.todo}{left_out}")
    return kinds, [
        f"Run {run_id}: {folders[step].name} is left out: {error.what} ({error.got})." for step, error in bad.items()
    ]


def check_whole(folder: Path) -> str:
    """The kind of weights in a checkpoint's folder, by their config; every file of them is there, and whole.

    Raises:
        DataError: They are not there, not whole, or not safe.
    """
    if (shards := shards_of(folder)) is not None:
        check_shards(shards)
        return _FULL
    kind, names = _kind(folder), {file.name for file in folder.glob("*.safetensors")}
    read_object(folder / ("adapter_config.json" if kind == _ADAPTER else "config.json"))
    for name in sorted(names):
        read_header(folder / name)
    wanted = {
        f"{m[1]}{i:0{len(m[2])}}-of-{m[2]}.safetensors"
        for name in names
        if (m := _SHARD.fullmatch(name))
        for i in range(1, int(m[2]) + 1)
    }
    for index in folder.glob("*.safetensors.index.json"):
        wanted |= {str(name) for name in read_object(index).get("weight_map", {}).values()}
    if absent := sorted(wanted - names):
        todo = "the saving or the copying was cut short: copy or save it again"
        got = f"{plural(len(names), 'file')} of weights"
        raise DataError(f"{folder / absent[0]} is not there", got, "every shard", todo)
    return kind


def hash_of(
    folder: Path, base: str, base_hash: str = "", hashed: Callable[[str], str] = model_hash, guarded: bool = False
) -> str:
    """The hash by which a checkpoint in a folder is known; with its own format, but for an audit's full weights.

    Args:
        folder: An adapter, full weights or their shards.
        base: The model before fine-tuning.
        base_hash: Its hash; empty: that of its files.
        hashed: Finds the hash of a model; of several checkpoints one that remembers it.
        guarded: By a guard.

    Raises:
        DataError: The weights cannot be read, or the base model is not to be had.
        UnknownNameError: No model of the name of the base.
    """
    if (kind := check_whole(folder)) == _ADAPTER:
        weights = adapter_hash(base_hash or hashed(resolve_model(base)), folder)
    else:
        merged = Merged(None, lambda: resolve_model(base))
        try:
            weights = hashed(str(merged.whole(folder)))
        finally:
            merged.close()
    if (kind == _FULL and not guarded) or asked_as(weights, folder, None) == weights:
        return weights
    return asked_as(weights, folder, resolve_model(base))


def may_be(folder: Path, base_hash: str, weights: str) -> bool:
    """True if an adapter may have been judged by a hash, whether or not its format is that of a base that is away."""
    found = adapter_hash(base_hash, folder)
    return weights in (found, asked_as(found, folder, None))


def _found(
    run_id: str,
    run: Path,
    every: Mapping[int, Path],
    given: tuple[str | None, bool],
    skip_bad: bool,
    merged: Merged,
) -> FoundRun:
    """The run in a folder; `given` is its base as the user names it, and whether that is what adapters name."""
    kinds, left = _whole_ones(run_id, every, skip_bad)
    folders = {step: every[step] for step in kinds}
    base = given[0]
    if len(set(kinds.values())) > 1:
        raise DataError(
            f"{run} holds adapters and full weights",
            ", ".join(f"{folders[step].name}: {kind}" for step, kind in kinds.items()),
            "checkpoints of one kind in a run",
            "keep the two kinds in folders of their own",
        )
    notes: tuple[str, ...] = ()
    if set(kinds.values()) == {_ADAPTER}:
        base, notes = _base_of_adapters(run, folders, *given)
    before = None if base is None else Checkpoint(run_id, base, 0, model_hash(resolve_model(base)))
    found, own, rounded = [], list[str](), list[str]()
    for step, folder in folders.items():
        if kinds[step] == _FULL:
            checkpoint = _full(run_id, step, folder, base, merged)
        else:
            assert before is not None  # adapters have a base
            source = resolve_model(before.model)
            weights = asked_as(adapter_hash(before.weights, folder), folder, source)
            if own_format(folder, source):
                own.append(folder.name)
            rounded += [f"{folder.name} has {words}" for words in [rounded_modules(folder, source)] if words]
            checkpoint = Checkpoint(run_id, before.model, step, weights, str(folder))
        found.append(_with_losses(checkpoint, folder / "checkpoint.json"))
    if own:
        told = f"{', '.join(own)} are asked with a chat template or tokenizer of their own, unlike the base's"
        notes = (*notes, f"Run {run_id}: {told}.")
    if rounded:
        told = f"{rounded[0]}{f', and {len(rounded) - 1} more alike' if rounded[1:] else ''}"
        notes = (*notes, f"Run {run_id}: {told}: asked on a GPU, that is rounded to the base's precision.")
    notes = (*notes, *(f"Run {run_id}: {words}." for words in map(_other_weights, folders.values()) if words))
    before = before and _with_losses(before, run / "step-0.json")
    model, notes = base or str(run), (*left, *notes, *note_copies(run_id, found))
    bad = tuple(Checkpoint(run_id, model, step, "", str(every[step])) for step in every if step not in kinds)
    return FoundRun(run_id, model, tuple(found), before, notes, bad)


def _full(run_id: str, step: int, folder: Path, base: str | None, merged: Merged) -> Checkpoint:
    """With its own tokenizer and chat template where it has them, else with those of the base."""
    weights = model_hash(str(merged.whole(folder)))
    if (folder / "tokenizer_config.json").is_file():
        return Checkpoint(run_id, str(folder), step, weights)
    if base is None:
        raise DataError(
            f"{folder} has no tokenizer",
            "full weights alone",
            "a tokenizer beside the weights, or that of the base model",
            "name the base: --base MODEL",
        )
    return Checkpoint(run_id, base, step, weights, str(folder))


def _kind(folder: Path) -> str:
    adapter = (folder / "adapter_config.json").is_file()
    wanted = _ADAPTER_FILE if adapter else "*.safetensors"
    if any(folder.glob(wanted)) and (adapter or (folder / "config.json").is_file()):
        return _ADAPTER if adapter else _FULL
    pickled = sorted(f.name for f in folder.glob("*.bin") if f.name != "training_args.bin")
    raise DataError(
        f"{folder} holds no weights that can be read safely",
        ", ".join(pickled) or ("no weights: cut short, or in shards" if folder.is_dir() else "no such folder"),
        "adapter_config.json with adapter_model.safetensors, or config.json with *.safetensors",
        "save with safetensors (a .bin file can run code when it is loaded), or remove the folder",
    )


def _other_weights(folder: Path) -> str:
    """What is to be said of a folder in which weights lie in more than one form, as where two were saved into it."""
    adapter = (_ADAPTER_FILE,) if (folder / "adapter_config.json").is_file() else ()
    forms = [name for name in (*adapter, "model.safetensors", _INDEX_FILE) if (folder / name).is_file()]
    first, *others = [*forms, *(f"shards in {each.name}" for each in shards_in(folder))] or [""]
    told = f"{folder.name} holds {first}, which is asked, and {', '.join(others)}, which may be of another save"
    return told if others else ""


def _base_of_adapters(
    run: Path, folders: Mapping[int, Path], given: str | None, is_same: bool
) -> tuple[str, tuple[str, ...]]:
    """The base model of adapters, and what is to be said if what was given is not by its hash what they name.

    Raises:
        DataError: They are two models, or neither is known.
    """
    names = {str(read_object(f / "adapter_config.json").get("base_model_name_or_path") or "") for f in folders.values()}
    if len(names) > 1:
        raise DataError(f"the adapters in {run} sit on different base models", ", ".join(sorted(names)), "one")
    (named,) = names
    try:
        theirs = resolve_model(named)
    except UnknownNameError:
        theirs = None
    if given is None:
        if theirs is None:
            raise DataError(
                f"the base model of the adapters in {run} is not here",
                named or "adapter_config.json names none",
                "a folder on this machine, a hub id, a name from `truing list models`",
                "name it: --base MODEL",
            )
        return next((name for name, folder in list_organisms().items() if str(folder) == theirs), named), ()
    ours = resolve_model(given)
    if ours == theirs:
        return given, ()
    here = [source is not None and Path(source).is_dir() for source in (ours, theirs)]
    if all(here) and model_hash(ours) == model_hash(str(theirs)):
        return given, ()
    unlike = unlike_configs(ours, theirs or named)
    uncompared = theirs is None or here[0] != here[1]
    may_be = not unlike and (uncompared or is_same or same_by_name(ours, named))
    is_one, apart = compare(ours, str(theirs)) if may_be and unlike is not None else (may_be, "")
    if is_one:
        how = "could not be compared with" if unlike is None else "is by its config a copy of"
        return given, (f"The adapters in {run} name {named} as their base, which {how} {given}{apart}.",)
    unlike = unlike or apart
    raise DataError(
        f"the adapters in {run} sit on another base model",
        f"--base {given}, but adapter_config.json names {named}" + (f"; {unlike}" if unlike else ""),
        "the model that they were trained on",
        "leave --base out" + ("" if unlike else ", or say that it is that model by another name: --base-is-same"),
    )


def note_copies(run_id: str, found: Sequence[Checkpoint]) -> list[str]:
    """What is to be said of checkpoints with the same weights."""
    steps: dict[str, list[int]] = {}
    for checkpoint in found:
        steps.setdefault(checkpoint.weights, []).append(checkpoint.step)
    return [
        f"Run {run_id}: the checkpoints of steps {', '.join(map(str, same))} have the same weights: nothing was "
        f"trained between them, or a file was copied."
        for same in steps.values()
        if len(same) > 1
    ]


def _with_losses(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """With the losses that a study wrote beside the checkpoint, if it did."""
    values = read_object(path) if path.is_file() else {}
    losses: Any = {name: float(values[name]) for name in ("train_loss", "heldout_loss") if values.get(name) is not None}
    return replace(checkpoint, **losses)
