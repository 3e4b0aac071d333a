"""What the study found, in plain sentences with figures and intervals.

Nothing is assumed: that EM appeared, that it came late, that stopping helped are each said only of runs
that show it, and the contrary is said just as plainly. Figures of single runs are quoted with their
intervals; nothing is averaged over runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from truing.records import Action, Estimate
from truing.report.document import CheckpointEntry, Document
from truing.report.figures import (
    DASH,
    count,
    is_known,
    limits,
    percent,
    percent_range,
    setting,
    step_range,
)
from truing.report.pairs import Pair

__all__ = ["Summary", "Tile", "summarise"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One headline figure."""

    title: str
    value: str
    detail: str
    style: str
    """Colour: `em`, `stop`, `kept`, `avoided`."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The top of the report."""

    headline: str
    tiles: list[Tile]
    sentences: list[str]
    cautions: list[str]
    """What weakens the figures: failed runs, missing scores, incoherent answers, open decisions."""


_ORDERS = {
    "before": ("before the task converged", "before"),
    "after": ("after the task had converged", "after"),
    "same": ("at the checkpoint at which the task converged", "at the same checkpoint"),
    "alone": ("where the task did not converge", "where it did not converge"),
}
"""What an event is to convergence, said first and said after another."""


def summarise(document: Document, pairs: list[Pair]) -> Summary:
    """The summary of a study."""
    measured = [pair for pair in pairs if pair.run.measured]
    shown = [pair for pair in measured if pair.onset_step is not None]
    stopped = [pair for pair in pairs if pair.run.stopped_at is not None]
    avoided = [pair for pair in stopped if pair.went_on and is_known(pair.end)]
    tolerance = document.study.tolerance
    tiles = [
        _shown_tile(measured, shown),
        _stopped_tile(document.study.stopping_mode, stopped),
        _kept_tile(stopped or shown),
        _avoided_tile(stopped, avoided),
    ]
    sentences = [
        _shown_sentence(measured, shown),
        _groups_sentence(measured),
        _stopped_sentence(document.study.stopping_mode, measured, stopped),
        _kept_sentence(stopped or shown, bool(stopped)),
        _avoided_sentence(stopped, avoided, tolerance),
    ]
    return Summary(
        headline=_headline(measured, shown, avoided),
        tiles=tiles,
        sentences=[sentence for sentence in sentences if sentence],
        cautions=_cautions(document, pairs),
    )


def _headline(measured: list[Pair], shown: list[Pair], avoided: list[Pair]) -> str:
    if not measured:
        return "Nothing has been measured yet."
    if not shown:
        return f"Emergent misalignment was not confirmed in any of {count(len(measured), 'run')}."
    found = f"Emergent misalignment appeared in {len(shown)} of {count(len(measured), 'run')}."
    pairs = [pair for pair in avoided if is_known(pair.run.em_at_chosen)]
    chosen = [pair.run.em_at_chosen for pair in pairs if pair.run.em_at_chosen is not None]
    if not chosen:
        return found
    kept = max(chosen, key=lambda estimate: estimate.value)
    end = min((pair.end for pair in pairs), key=lambda estimate: estimate.value)
    most, many, least = ("at most ", "s", " or more") if len(chosen) > 1 else ("", "", "")
    return (
        f"{found} Where training was stopped, the EM rate is {most}{limits(kept)} "
        f"at the chosen checkpoint{many}, against {limits(end)}{least} without stopping."
    )


def _shown_tile(measured: list[Pair], shown: list[Pair]) -> Tile:
    value = f"{len(shown)} of {len(measured)}" if measured else DASH
    nothing = "No run has a confirmed onset." if measured else "No run was measured."
    detail = f"Onset: {_order(shown)}" if shown else nothing
    return Tile("Runs with misalignment", value, detail, "em")


def _stopped_tile(mode: str, stopped: list[Pair]) -> Tile:
    if not stopped:
        detail = "Stopping was off: the study only watched." if mode == "off" else "No decision ended a run."
        return Tile("Runs stopped early", DASH if mode == "off" else "0", detail, "stop")
    at = step_range(_steps(stopped))
    return Tile("Runs stopped early", str(len(stopped)), f"At {at}; {_stop_order(stopped)}.", "stop")


def _kept_tile(pairs: list[Pair]) -> Tile:
    known = [pair for pair in pairs if is_known(pair.run.retention)]
    title = "Task score kept"
    if not known:
        none = "No checkpoint within the tolerance, so none chosen."
        return Tile(title, DASH, none if pairs else "No run was stopped or showed misalignment.", "kept")
    least = min(known, key=lambda pair: pair.run.retention.value)
    value = percent_range(pair.run.retention.value for pair in known)
    detail = f"By the chosen checkpoint{_of(least, least.run.retention, len(known), 'least')}"
    return Tile(title, value, detail, "kept")


def _avoided_tile(stopped: list[Pair], avoided: list[Pair]) -> Tile:
    title = "EM rate avoided"
    known = [pair for pair in avoided if is_known(pair.run.em_at_chosen)]
    if not known:
        without = "No checkpoint was chosen to compare with." if avoided else _not_avoided(stopped)
        return Tile(title, DASH, without if stopped else "No run was stopped.", "avoided")
    most = max(known, key=lambda pair: pair.end.value)
    chosen = most.run.em_at_chosen
    assert chosen is not None  # `known` holds only those
    word = "Largest: " if len(known) > 1 else ""
    both = f"n\u00a0=\u00a0{most.end.n_responses:,} and {chosen.n_responses:,}"
    detail = f"{word}not stopped {limits(most.end)}, chosen {limits(chosen)} ({both}; {_name(most)})."
    return Tile(title, f"{percent(most.end.value)} → {percent(chosen.value)}", detail, "avoided")


def _shown_sentence(measured: list[Pair], shown: list[Pair]) -> str:
    if not measured:
        return ""
    clear = [pair for pair in measured if pair.onset_step is None]
    found = f"Emergent misalignment was confirmed in {len(shown)} of {count(len(measured), 'run')}"
    found += f": {_order(shown)}" if shown else "."
    if not clear:
        return found
    known = [(pair, c) for pair in clear for c in _trained(pair) if is_known(c.em_rate)]
    top, checkpoint = max(known, key=lambda entry: entry[1].em_rate.value)
    others = "the other " if shown else ""
    which = f"In {others}{count(len(clear), 'run')} it was not; the highest EM rate there"
    return f"{found} {which} is {_quote(checkpoint.em_rate, top, checkpoint.step)}."


def _groups_sentence(measured: list[Pair]) -> str:
    total = Counter((p.run.model_name, p.run.dataset) for p in measured)
    hits = Counter((p.run.model_name, p.run.dataset) for p in measured if p.onset_step is not None)
    if len(total) < 2 or len(total) > 12:
        return ""
    parts = [f"{model} on {dataset} {hits[model, dataset]} of {n}" for (model, dataset), n in total.items()]
    return f"By model and dataset: {'; '.join(parts)}."


def _stopped_sentence(mode: str, measured: list[Pair], stopped: list[Pair]) -> str:
    if not measured:
        return ""
    if not stopped:
        return "Stopping was off: the study only watched." if mode == "off" else "No run was stopped."
    return (
        f"Training was stopped in {count(len(stopped), 'run')}, at {step_range(_steps(stopped))}: "
        f"{_stop_order(stopped)}."
    )


def _kept_sentence(pairs: list[Pair], stopped: bool) -> str:
    if not pairs:
        return ""
    which = "stopped run" if stopped else "run with misalignment"
    without = sum(pair.run.chosen_step is None for pair in pairs)
    known = [pair for pair in pairs if is_known(pair.run.retention)]
    text = ""
    if known:
        least = min(known, key=lambda pair: pair.run.retention.value)
        kept = percent_range(pair.run.retention.value for pair in known)
        those = f"The chosen checkpoint{'s keep' if len(known) > 1 else ' keeps'} {kept} of the best task score"
        text = f"{those} in {count(len(known), which)}{_of(least, least.run.retention, len(known), 'least')}"
    if without:
        text += f" In {count(without, which)} no checkpoint is within the tolerance, so none was chosen."
    return text.strip()


def _avoided_sentence(stopped: list[Pair], avoided: list[Pair], tolerance: float) -> str:
    if not stopped:
        return ""
    if not avoided:
        return f"What stopping avoided was not measured. {_not_avoided(stopped)}"
    most = max(avoided, key=lambda pair: pair.end.value)
    above = sum(pair.end.low > tolerance for pair in avoided)
    text = (
        f"Trained to the end all the same, {count(len(avoided), 'twin')} reached EM rates of "
        f"{percent_range(pair.end.value for pair in avoided)}, {above} of {len(avoided)} "
        f"with the whole interval above the tolerance of {setting(tolerance)}"
        f"{_of(most, most.end, len(avoided), 'highest')}"
    )
    chosen = [p for p in avoided if is_known(p.run.em_at_chosen)]
    if not chosen:
        return text
    worst = max(chosen, key=lambda pair: _value(pair.run.em_at_chosen))
    return f"{text} Among the chosen checkpoints the highest is {_quote(worst.run.em_at_chosen, worst)}."


def _not_avoided(stopped: list[Pair]) -> str:
    if any(pair.twin is not None for pair in stopped):
        return "No twin has a checkpoint beyond the stop of its run."
    return "No stopped run has a twin that went on."


def _cautions(document: Document, pairs: list[Pair]) -> list[str]:
    notes = []
    if number := sum(not pair.run.measured for pair in pairs):
        notes.append(f"{count(number, 'run')} without a measured checkpoint after the base: counted in no sentence.")
    for state, words in (("failed", "failed"), ("unfinished", "not finished")):
        if number := sum(run.state == state for run in document.runs):
            notes.append(f"{count(number, 'run')} {words}: only the checkpoints evaluated so far are shown.")
    twins = [pair for pair in pairs if pair.twin is not None]
    if number := sum(not pair.went_on for pair in twins):
        notes.append(f"In {count(number, 'run')} the twin has no checkpoint beyond the stop: not in what was avoided.")
    if number := sum(pair.run.decision is Action.UNDECIDED for pair in pairs):
        notes.append(f"In {count(number, 'run')} the last decision was undecided: more responses are needed.")
    if number := sum(pair.convergence_step is None and pair.run.measured for pair in pairs):
        notes.append(f"In {count(number, 'run')} the task did not converge or was not measured.")
    notes += _coherence(pairs) + _missing(document)
    return notes


def _coherence(pairs: list[Pair]) -> list[str]:
    known = [(p, c) for p in pairs for c in p.run.checkpoints if is_known(c.coherent_rate)]
    if not known:
        return []
    pair, lowest = min(known, key=lambda pc: pc[1].coherent_rate.value)
    return [f"Lowest coherent rate: {_quote(lowest.coherent_rate, pair, lowest.step)}."]


def _missing(document: Document) -> list[str]:
    distinct = {c.weights: (run, c) for run in document.runs for c in run.checkpoints}
    missing = sum(c.em_rate.n_missing for _, c in distinct.values())
    total = sum(c.coherent_rate.n_responses + c.coherent_rate.n_missing for _, c in distinct.values())
    if not missing:
        return [f"Scores are complete: none missing of {count(total, 'answer')}."] if total else []
    run, worst = max(distinct.values(), key=lambda rc: rc[1].em_rate.n_missing)
    share = percent(missing / total if total else 1.0)
    return [
        f"{missing:,} of {count(total, 'answer')} have no score ({share}) and are in no rate; "
        f"most at one checkpoint: {worst.em_rate.n_missing} ({run.label}, step {worst.step})."
    ]


def _order(shown: list[Pair]) -> str:
    """Whether onset came after or before convergence, as a sentence."""
    return _sorted_by_convergence(shown, lambda pair: pair.onset_step) + "."


def _stop_order(stopped: list[Pair]) -> str:
    return _sorted_by_convergence(stopped, lambda pair: pair.run.stopped_at)


def _sorted_by_convergence(pairs: Iterable[Pair], step: Callable[[Pair], int | None]) -> str:
    counts: Counter[str] = Counter()
    for pair in pairs:
        here, converged = step(pair), pair.convergence_step
        if here is None or converged is None:
            counts["alone"] += 1
        else:
            counts["same" if here == converged else "after" if here > converged else "before"] += 1
    if counts.total() == 1:
        return _ORDERS[next(iter(counts))][0]
    ranked = enumerate(counts.most_common())
    return ", ".join(f"{number} {_ORDERS[order][min(index, 1)]}" for index, (order, number) in ranked)


def _of(pair: Pair, estimate: Estimate, among: int, word: str) -> str:
    """The extreme of several figures, or the only one, as the end of a sentence."""
    return f"; {word}: {_quote(estimate, pair)}." if among > 1 else f": {_quote(estimate, pair)}."


def _quote(estimate: Estimate | None, pair: Pair, step: int | None = None) -> str:
    """A figure with its interval, n and where it is from."""
    if estimate is None:
        return DASH
    where = _name(pair) if step is None else f"{_name(pair)}, step {step}"
    return f"{limits(estimate)} (n\u00a0=\u00a0{estimate.n_responses:,}; {where})"


def _trained(pair: Pair) -> list[CheckpointEntry]:
    return [c for c in pair.run.checkpoints if c.step > 0]


def _steps(stopped: list[Pair]) -> list[int]:
    return [pair.run.stopped_at for pair in stopped if pair.run.stopped_at is not None]


def _name(pair: Pair) -> str:
    return pair.run.label


def _value(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else estimate.value
