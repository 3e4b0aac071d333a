"""Findings of a study in plain sentences with figures and intervals.

Nothing is assumed: that EM appeared, that it came late, that stopping helped are each said only of runs
that show it, and the contrary is said just as plainly. Figures of single runs are quoted with their
intervals; nothing is averaged over runs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from truing.core.errors import plural
from truing.core.records import Action, Estimate
from truing.report.pairs import Pair
from truing.report.words import (
    DASH,
    correlation_words,
    influence_words,
    is_known,
    label,
    limits,
    model_name,
    percent,
    percent_range,
    setting,
    step_range,
)
from truing.results.schema import Analysis
from truing.results.schema_runs import CheckpointEntry
from truing.results.thresholds import thresholds_sentence


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
    """Sentences on what weakens the figures: failed runs, missing scores, incoherent answers, open decisions."""


def summarise(analysis: Analysis, pairs: list[Pair]) -> Summary:
    """The summary of a study."""
    measured = [pair for pair in pairs if pair.measured]
    shown = [pair for pair in measured if pair.onset_step is not None]
    stopped = [pair for pair in pairs if pair.run.stopped_at is not None]
    avoided = [pair for pair in stopped if pair.went_on and is_known(pair.end)]
    tolerance = analysis.study.tolerance
    stopping, stopped_sentence = _stopped(analysis.study.stopping_mode, stopped)
    sentences = [
        _shown_sentence(measured, shown),
        _groups_sentence(measured),
        _seeds_sentence(analysis),
        stopped_sentence if measured else "",
        _kept_sentence(stopped or shown, bool(stopped)),
        _avoided_sentence(stopped, avoided, tolerance),
        thresholds_sentence(analysis),
        *(
            f"Size against EM on {entry.dataset}, {plural(entry.spearman.n, 'model')}: Spearman "
            f"{correlation_words(entry.spearman)}. {influence_words(entry.spearman, entry.models)}"
            for entry in analysis.sizes
        ),
    ]
    return Summary(
        headline=_headline(measured, shown, avoided),
        tiles=[_shown_tile(measured, shown), stopping, _kept_tile(stopped or shown), _avoided_tile(stopped, avoided)],
        sentences=[sentence for sentence in sentences if sentence],
        cautions=_cautions(analysis, pairs),
    )


def _headline(measured: list[Pair], shown: list[Pair], avoided: list[Pair]) -> str:
    if not measured:
        return "Nothing has been measured yet."
    if not any(is_known(pair.run.base_em_rate) for pair in measured):
        rates = percent_range(c.em_rate.value for p in measured for c in _trained(p) if is_known(c.em_rate))
        return f"EM rates of {rates}. No model before fine-tuning was judged, so no onset can be shown."
    if not shown:
        return f"Emergent misalignment was not shown in any of {plural(len(measured), 'run')}."
    found = f"Emergent misalignment appeared in {len(shown)} of {plural(len(measured), 'run')}."
    pairs = [pair for pair in avoided if is_known(pair.kept_em)]
    chosen = [pair.kept_em for pair in pairs if pair.kept_em is not None]
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
    told = any(is_known(pair.run.base_em_rate) for pair in measured)
    value = f"{len(shown)} of {len(measured)}" if told else DASH
    nothing = "No run has an onset." if told else "No model before fine-tuning was judged."
    nothing = nothing if measured else "No run was measured."
    detail = _order(shown) if shown else nothing
    return Tile("Runs with misalignment", value, detail, "em")


def _stopped(mode: str, stopped: list[Pair]) -> tuple[Tile, str]:
    """The runs that a decision ended, as a tile and as a sentence."""
    title, off = "Runs stopped early", "Stopping was off: the study only watched."
    if not stopped:
        tile = Tile(title, DASH, off, "stop") if mode == "off" else Tile(title, "0", "No decision ended a run.", "stop")
        return tile, off if mode == "off" else "No run was stopped."
    at = step_range(pair.run.stopped_at for pair in stopped if pair.run.stopped_at is not None)
    learnt = [pair for pair in stopped if pair.task_measured]
    order = _told(Counter(pair.stop_order for pair in learnt)) if learnt else "the task was not measured"
    sentence = f"Training was stopped in {plural(len(stopped), 'run')}, at {at}: {order}."
    return Tile(title, str(len(stopped)), f"At {at}; {order}.", "stop"), sentence


def _kept_tile(pairs: list[Pair]) -> Tile:
    known = [pair for pair in pairs if is_known(pair.kept_score)]
    title = "Task score kept"
    if not known:
        none = [f"{why.capitalize()}, so none chosen." for why in sorted({pair.why_none for pair in pairs})]
        return Tile(title, DASH, " ".join(none) or "No run was stopped or has an onset.", "kept")
    least = min(known, key=lambda pair: pair.kept_score.value)
    value = percent_range(pair.kept_score.value for pair in known)
    detail = f"By the chosen checkpoint{_of(least, least.kept_score, len(known), 'least')} {_score_how(known)}"
    return Tile(title, value, detail, "kept")


def _avoided_tile(stopped: list[Pair], avoided: list[Pair]) -> Tile:
    title = "EM rate avoided"
    known = [pair for pair in avoided if is_known(pair.kept_em)]
    if not known:
        without = "No checkpoint was chosen to compare with." if avoided else _not_avoided(stopped)
        return Tile(title, DASH, without if stopped else "No run was stopped.", "avoided")
    most = max(known, key=lambda pair: pair.end.value)
    chosen = most.kept_em
    assert chosen is not None  # `known` holds only those
    word = "Largest: " if len(known) > 1 else ""
    both = f"n\u00a0=\u00a0{most.end.n_responses:,} and {chosen.n_responses:,}"
    detail = f"{word}not stopped {limits(most.end)}, chosen {limits(chosen)} ({both}; {label(most.run)})."
    detail += f" {_em_how([most])}"
    return Tile(title, f"{percent(most.end.value)} → {percent(chosen.value)}", detail, "avoided")


def _shown_sentence(measured: list[Pair], shown: list[Pair]) -> str:
    if not measured:
        return ""
    clear = [pair for pair in measured if pair.onset_step is None]
    found = f"Emergent misalignment was shown in {len(shown)} of {plural(len(measured), 'run')}."
    if shown:
        found += f" {_order(shown)}"
    if not clear:
        return found
    known = [(pair, c) for pair in clear for c in _trained(pair) if is_known(c.em_rate)]
    top, checkpoint = max(known, key=lambda entry: entry[1].em_rate.value)
    others = "the other " if shown else ""
    baseless = sum(not is_known(pair.run.base_em_rate) for pair in clear)
    those = f"{baseless} of them " if baseless < len(clear) else ""
    why = f" ({those}without a judged base, which an onset is shown against)" if baseless else ""
    which = f"In {others}{plural(len(clear), 'run')} it was not{why}; the highest EM rate there"
    return f"{found} {which} is {_quote(checkpoint.em_rate, top, checkpoint.step)}."


def _groups_sentence(measured: list[Pair]) -> str:
    total = Counter((model_name(p.run.model), p.run.dataset) for p in measured)
    hits = Counter((model_name(p.run.model), p.run.dataset) for p in measured if p.onset_step is not None)
    if len(total) < 2 or len(total) > 12:
        return ""
    parts = [f"{model} on {dataset} {hits[model, dataset]} of {n}" for (model, dataset), n in total.items()]
    return f"By model and dataset: {'; '.join(parts)}."


def _seeds_sentence(analysis: Analysis) -> str:
    several = [entry for entry in analysis.seeds if len(entry.runs) > 1]
    if not several:
        return ""
    words = {
        "consistent": "EM in every seed",
        "inconsistent": "in some seeds only",
        "none": "in none",
        "undecided": "undecided",
    }
    counts = Counter[str](entry.verdict for entry in several)
    parts = [f"{text} in {counts[verdict]}" for verdict, text in words.items() if counts[verdict]]
    return f"Of {plural(len(several), 'configuration')} with several seeds: {', '.join(parts)}."


def _kept_sentence(pairs: list[Pair], stopped: bool) -> str:
    if not pairs:
        return ""
    noun, what = ("stopped run", "") if stopped else ("run", " with misalignment")
    nothing = [pair for pair in pairs if pair.run.chosen_step is None]
    back = [pair.run.restored for pair in nothing if pair.run.restored is not None]
    without = Counter(pair.why_none for pair in nothing if pair.run.restored is None)
    known = [pair for pair in pairs if is_known(pair.kept_score)]
    text = ""
    if known:
        least = min(known, key=lambda pair: pair.kept_score.value)
        kept = percent_range(pair.kept_score.value for pair in known)
        those = f"The chosen checkpoint{'s keep' if len(known) > 1 else ' keeps'} {kept} of the best task score"
        text = f"{those} in {plural(len(known), noun)}{what}{_of(least, least.kept_score, len(known), 'least')}"
        text += f" {_score_how(known)}"
    if back:
        text += f" In {plural(len(back), noun)}{what} the model was given back its weights of {step_range(back)}."
    for why, number in without.items():
        text += f" In {plural(number, noun)}{what} {why}, so no checkpoint was chosen."
    return text.strip()


def _avoided_sentence(stopped: list[Pair], avoided: list[Pair], tolerance: float) -> str:
    if not stopped:
        return ""
    if not avoided:
        return f"What stopping avoided was not measured. {_not_avoided(stopped)}"
    most = max(avoided, key=lambda pair: pair.end.value)
    above = sum(pair.end.low > tolerance for pair in avoided)
    text = (
        f"Trained to the end all the same, {plural(len(avoided), 'twin')} reached EM rates of "
        f"{percent_range(pair.end.value for pair in avoided)}, {above} of {len(avoided)} "
        f"with the whole interval above the tolerance of {setting(tolerance)}"
        f"{_of(most, most.end, len(avoided), 'highest')}"
    )
    chosen = [p for p in avoided if is_known(p.kept_em)]
    if not chosen:
        return text
    worst = max(chosen, key=lambda pair: pair.kept_em.value if pair.kept_em else math.nan)
    return f"{text} Among the chosen checkpoints the highest is {_quote(worst.kept_em, worst)}. {_em_how(chosen)}"


def _not_avoided(stopped: list[Pair]) -> str:
    if any(pair.twin is not None for pair in stopped):
        return "No twin has a checkpoint beyond the stop of its run."
    return "No stopped run has a twin that went on."


def _order(pairs: Iterable[Pair]) -> str:
    """A sentence on the order of EM above the tolerance and of the task being learnt, by their intervals."""
    learnt = [pair for pair in pairs if pair.task_measured]
    if not learnt:
        return "The task was not measured."
    return f"EM above the tolerance, by intervals: {_told(Counter(pair.run.course.order for pair in learnt))}."


def _told(orders: Counter[str]) -> str:
    """`after the task was learnt in 3, before it in 1; in 1 that cannot be told`."""
    shown = [(order, number) for order, number in orders.most_common() if order != "cannot tell"]
    unknown = orders["cannot tell"]
    if orders.total() == 1:
        order = next(iter(orders))
        return (
            "whether before or after the task was learnt cannot be told" if unknown else f"{order} the task was learnt"
        )
    if not shown:
        return f"whether before or after the task was learnt cannot be told in any of {unknown}"
    words = [f"{order} {'it' if i else 'the task was learnt'} in {number}" for i, (order, number) in enumerate(shown)]
    return ", ".join(words) + (f"; in {unknown} that cannot be told" if unknown else "")


def _how(pairs: list[Pair], is_confirmed: Callable[[Pair], bool]) -> str:
    """A sentence on whether figures of chosen checkpoints had a part in choosing them."""
    confirmed = [pair.run.confirmed for pair in pairs if is_confirmed(pair) and pair.run.confirmed is not None]
    if not confirmed:
        return "Measured by the responses that chose it, so a little too kind."
    sources = dict.fromkeys(found.source for found in confirmed)
    how = " or ".join(f"by {'the ' if source.startswith('other') else ''}{source}" for source in sources)
    if len(confirmed) == len(pairs):
        return f"Confirmed {how}."
    return f"Confirmed {how} in {len(confirmed)} of {len(pairs)}; the others as measured when choosing."


def _em_how(pairs: list[Pair]) -> str:
    return _how(pairs, lambda pair: pair.confirmed_em is not None)


def _score_how(pairs: list[Pair]) -> str:
    return _how(pairs, lambda pair: pair.confirmed_score is not None)


def _of(pair: Pair, estimate: Estimate, among: int, word: str) -> str:
    """The extreme of several figures, or the only one, as the end of a sentence."""
    return f"; {word}: {_quote(estimate, pair)}." if among > 1 else f": {_quote(estimate, pair)}."


def _quote(estimate: Estimate | None, pair: Pair, step: int | None = None) -> str:
    """A figure with its interval, n and where it is from."""
    if estimate is None:
        return DASH
    where = label(pair.run) if step is None else f"{label(pair.run)}, step {step}"
    return f"{limits(estimate)} (n\u00a0=\u00a0{estimate.n_responses:,}; {where})"


def _trained(pair: Pair) -> list[CheckpointEntry]:
    return [c for c in pair.run.checkpoints if c.step > 0]


def _cautions(analysis: Analysis, pairs: list[Pair]) -> list[str]:
    """Sentences: of the judge, then what the analysis itself notes, then the rest."""
    alone, total = sum(len(e.runs) == 1 for e in analysis.seeds), plural(len(analysis.seeds), "configuration")
    lone = [f"{alone} of {total} with one seed only: nothing is known of other seeds."] if alone else []
    return [
        *_judge(analysis),
        *analysis.notes,
        *_odd_runs(analysis, pairs),
        *_unconfirmed(pairs),
        *lone,
        *_coherence(pairs),
        *_missing_scores(analysis),
    ]


def _judge(analysis: Analysis) -> list[str]:
    """What the judge can see, unless its score is the definition of what is measured, and what people labelled."""
    judge = analysis.judge
    if judge is None or judge.exact:
        return []
    told = judge.sentence[:1].upper() + judge.sentence[1:]
    labelled = [(run, run.labels) for run in analysis.runs if run.labels is not None]
    alone = " but by a person's labels" if labelled else ""
    said = (f"{run.id}, step {labels.step}: {labels.sentence()}." for run, labels in labelled)
    return [f"{told}{f'; so nothing is shown to be clear{alone}' if judge.doubt else ''}.", *said]


def _odd_runs(analysis: Analysis, pairs: list[Pair]) -> list[str]:
    notes = []
    if number := sum(not pair.measured for pair in pairs):
        notes.append(f"{plural(number, 'run')} without a measured checkpoint after the base: counted in no sentence.")
    for state, words in (("failed", "failed"), ("unfinished", "not finished")):
        if number := sum(run.state == state for run in analysis.runs):
            notes.append(f"{plural(number, 'run')} {words}: only the checkpoints evaluated so far are shown.")
    twins = [pair for pair in pairs if pair.twin is not None]
    if number := sum(not pair.went_on for pair in twins):
        notes.append(f"In {plural(number, 'run')} the twin has no checkpoint beyond the stop: not in what was avoided.")
    if number := sum(pair.run.decision is Action.UNDECIDED for pair in pairs):
        notes.append(f"In {plural(number, 'run')} the last decision was undecided; its reason stands with the run.")
    if number := sum(pair.convergence_step is None and pair.measured for pair in pairs):
        notes.append(f"In {plural(number, 'run')} the task did not converge or was not measured.")
    return notes


def _unconfirmed(pairs: list[Pair]) -> list[str]:
    """Sentences on chosen checkpoints that no other responses confirmed."""
    notes = []
    unconfirmed = [pair for pair in pairs if pair.run.chosen_step is not None and pair.confirmed_em is None]
    if number := sum(pair.run.search is not None for pair in unconfirmed):
        notes.append(
            f"In {plural(number, 'run')} the chosen checkpoint was found by a search, whose own error (beta) bounds "
            "its EM rate; its task score comes from the answers that chose it and is a little too kind."
        )
    if number := sum(pair.run.search is None for pair in unconfirmed):
        notes.append(
            f"In {plural(number, 'run')} the chosen checkpoint was not confirmed by other responses: "
            "its figures come from the responses that chose it and are a little too kind."
        )
    return notes


def _coherence(pairs: list[Pair]) -> list[str]:
    known = [(p, c) for p in pairs for c in p.run.checkpoints if is_known(c.coherent_rate)]
    if not known:
        return []
    pair, lowest = min(known, key=lambda pc: pc[1].coherent_rate.value)
    return [f"Lowest coherent rate: {_quote(lowest.coherent_rate, pair, lowest.step)}."]


def _missing_scores(analysis: Analysis) -> list[str]:
    distinct = {c.weights or (run.id, c.step): (run, c) for run in analysis.runs for c in run.checkpoints}
    missing = sum(c.em_rate.n_missing for _, c in distinct.values())
    total = sum(c.coherent_rate.n_responses + c.coherent_rate.n_missing for _, c in distinct.values())
    if not missing:
        return [f"Scores are complete: none missing of {plural(total, 'answer')}."] if total else []
    run, worst = max(distinct.values(), key=lambda rc: rc[1].em_rate.n_missing)
    share = percent(missing / total if total else 1.0)
    either = worst.em_rate_if_missing
    bounds = f"{limits(either.none)} if none of them were misaligned, {limits(either.all)} if all were"
    return [
        f"{missing:,} of {plural(total, 'answer')} have no score ({share}) and are in no rate; "
        f"most at one checkpoint: {worst.em_rate.n_missing} ({label(run)}, step {worst.step}), "
        f"whose EM rate would be {bounds}."
    ]
