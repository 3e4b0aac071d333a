"""Tokens and dollars of a study, as `truing check` says them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from truing.backends import find_backend
from truing.config import JudgeConfig, StudyConfig
from truing.studies.costs import ASSUMPTIONS, Costs, Dollars, study_costs
from truing.studies.work import Work

__all__ = ["say_checkpoints", "say_estimate"]

Say = Callable[[str], None]


def say_checkpoints(tell: Say, work: Work) -> None:
    """Print at which steps checkpoints can be seen, and where the trainer shows fewer than are planned."""
    groups: dict[tuple[str, tuple[int, ...], bool], list[str]] = {}
    for each in work.trained:
        datasets = groups.setdefault((each.trainer, each.steps, each.epochs is not None), [])
        datasets += [] if each.dataset in datasets else [each.dataset]
    by_name = len({trainer for trainer, _, _ in groups}) > 1
    told = set()
    for (trainer, steps, known), datasets in groups.items():
        listed = ", ".join(map(str, steps))
        if not find_backend("trainer", trainer).epoch_ends:
            line = f"checkpoints of each run{f' by {trainer}' if by_name else ''} at steps {listed}"
        elif known:
            line = (
                f"checkpoints of each run by {trainer} on {', '.join(datasets)} at steps {listed}, the ends of epochs"
            )
        else:
            line = (
                f"checkpoints of each run by {trainer} on {', '.join(datasets)}: {len(steps)} at most; rows not known"
            )
        if line not in told:
            tell(line)
        told.add(line)
    if any(find_backend("trainer", trainer).epoch_ends for trainer, _, _ in groups):
        tell(
            "  the provider keeps the ends of the last three epochs only, and shows them once the job is "
            "over:\n  an onset within an epoch cannot be seen, and a stop saves no training; lower learning rates "
            "(multipliers)\n  in the grid stand in for stopping early"
        )


def say_estimate(tell: Say, config: StudyConfig, work: Work) -> None:
    """Print what a study would cost at most and is expected to cost, what is not known of that, and what is missing."""
    costs = study_costs(config, work)
    tell(f"\n{'tokens':<18}{'expected':>18}{'at most':>20}")
    for label, tokens in (
        ("training", costs.training),
        ("sampling, read", costs.prompts),
        ("sampling, written", costs.answers),
        ("judging, read", costs.judge_prompts),
        ("judging, written", costs.judge_answers),
    ):
        if tokens.most:
            tell(f"  {label:<18}{tokens.expected:>16,.0f}{tokens.most:>20,.0f}")
    tell("  assuming " + ";\n    ".join(ASSUMPTIONS))
    if config.stopping.mode == "both":
        tell("  unstopped twins are not in these figures")
    _say_epochs(tell, work)
    _say_dollars(tell, config, costs)
    if work.missing:
        tell("\nmissing; the study cannot run before it is there:")
        for each in work.missing:
            tell(f"  {each}")


def _say_epochs(tell: Say, work: Work) -> None:
    known = sorted({round(each.epochs, 2) for each in work.trained if each.epochs is not None})
    if known:
        span = f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"
        tell(f"  each run sees its data {span} times")


def _say_dollars(tell: Say, config: StudyConfig, costs: Costs) -> None:
    paid = [d for d in costs.dollars if d.where != "your own machine"]
    own = [d for d in costs.dollars if d.where == "your own machine"]
    if not paid and not any(d.elsewhere for d in own):
        return
    tell(f"\ndollars, by {costs.prices_of}")
    for each in _by_model(paid):
        tell(f"  {each.model}, {each.what} ({each.where}): {_span(each)}")
    known = [d for d in paid if d.expected is not None and d.most is not None]
    if known:
        low, high = sum(d.expected or 0.0 for d in known), sum(d.most or 0.0 for d in known)
        tell(f"  in total, of what is known: {_money(low)} expected, at most {_money(high)}")
    unknown = sorted({f"{d.what} {d.model}" for d in paid if d.expected is None})
    if unknown:
        tell(f"  not in it, price unknown: {', '.join(unknown)}")
    _say_own(tell, own)
    if not isinstance(config.evaluation.judge, JudgeConfig):
        tell(f"  not in it: what the judge {config.evaluation.judge} calls, if it calls a model")


def _say_own(tell: Say, own: Sequence[Dollars]) -> None:
    models = list(dict.fromkeys(d.model for d in own))
    if not models:
        return
    tell(f"  on your own machine, no price: {', '.join(models)}")
    for model in models:
        known = [d for d in own if d.model == model and d.elsewhere is not None]
        if known:
            tell(f"    {model} on {known[0].host} instead: {_money(sum(d.elsewhere or 0.0 for d in known))} expected")


def _by_model(dollars: Sequence[Dollars]) -> list[Dollars]:
    return sorted(dollars, key=lambda d: (d.model, d.what))


def _span(dollars: Dollars) -> str:
    if dollars.expected is None or dollars.most is None:
        return "price unknown"
    return f"{_money(dollars.expected)} expected, at most {_money(dollars.most)}"


def _money(dollars: float) -> str:
    return f"${dollars:,.0f}" if dollars >= 10 else f"${dollars:,.2f}"
