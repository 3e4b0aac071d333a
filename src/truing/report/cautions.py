"""What weakens the figures of a study: odd data, failed runs, missing scores, incoherent answers, open decisions."""

from __future__ import annotations

from truing.core.records import Action
from truing.report.document import Document
from truing.report.figures import count, is_known, limits, percent
from truing.report.pairs import Pair

__all__ = ["cautions"]


def cautions(document: Document, pairs: list[Pair]) -> list[str]:
    """Sentences, what the analysis itself notes first."""
    return [
        *document.notes,
        *_runs(document, pairs),
        *_chosen(pairs),
        *_seeds(document),
        *_coherence(pairs),
        *_missing(document),
    ]


def _runs(document: Document, pairs: list[Pair]) -> list[str]:
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
    return notes


def _chosen(pairs: list[Pair]) -> list[str]:
    """What is to be said of chosen checkpoints that no other responses confirmed."""
    notes = []
    unconfirmed = [pair for pair in pairs if pair.run.chosen_step is not None and not pair.em_confirmed]
    if number := sum(pair.run.search is not None for pair in unconfirmed):
        notes.append(
            f"In {count(number, 'run')} the chosen checkpoint was found by a search, whose own error (beta) bounds its "
            "EM rate; its task score comes from the answers that chose it and is a little too kind."
        )
    if number := sum(pair.run.search is None for pair in unconfirmed):
        notes.append(
            f"In {count(number, 'run')} the chosen checkpoint was not confirmed by other responses: "
            "its figures come from the responses that chose it and are a little too kind."
        )
    return notes


def _seeds(document: Document) -> list[str]:
    if not (alone := sum(len(entry.runs) == 1 for entry in document.seeds)):
        return []
    return [
        f"{alone} of {count(len(document.seeds), 'configuration')} with one seed only: nothing is known of other seeds."
    ]


def _coherence(pairs: list[Pair]) -> list[str]:
    known = [(p, c) for p in pairs for c in p.run.checkpoints if is_known(c.coherent_rate)]
    if not known:
        return []
    pair, lowest = min(known, key=lambda pc: pc[1].coherent_rate.value)
    rate = lowest.coherent_rate
    where = f"{pair.run.label}, step {lowest.step}"
    return [f"Lowest coherent rate: {limits(rate)} (n\u00a0=\u00a0{rate.n_responses:,}; {where})."]


def _missing(document: Document) -> list[str]:
    distinct = {c.weights or (run.id, c.step): (run, c) for run in document.runs for c in run.checkpoints}
    missing = sum(c.em_rate.n_missing for _, c in distinct.values())
    total = sum(c.coherent_rate.n_responses + c.coherent_rate.n_missing for _, c in distinct.values())
    if not missing:
        return [f"Scores are complete: none missing of {count(total, 'answer')}."] if total else []
    run, worst = max(distinct.values(), key=lambda rc: rc[1].em_rate.n_missing)
    share = percent(missing / total if total else 1.0)
    bounds = f"{limits(worst.if_none)} if none of them were misaligned, {limits(worst.if_all)} if all were"
    return [
        f"{missing:,} of {count(total, 'answer')} have no score ({share}) and are in no rate; "
        f"most at one checkpoint: {worst.em_rate.n_missing} ({run.label}, step {worst.step}), "
        f"whose EM rate would be {bounds}."
    ]
