"""Finding a checkpoint when all of them exist already: not every one needs a look.

`search_best` takes the task scores as known and asks checkpoints from the best score downwards, so the first one that
is clear is the one to keep and worse ones are never looked at. `search_crossing` bisects for two neighbours of which
the earlier is clear and the later misaligned. Neither assumes that EM only rises: the first looks at everything better
than what it returns, the second claims one crossing, not the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from truing.config import StoppingConfig
from truing.core.records import Action
from truing.stats.agreement import JudgeLimits
from truing.stats.betting import ABOVE, BELOW, draws_to_clear, is_hopeless, log_wealth
from truing.stats.clearance import prompts_to_clear
from truing.stats.sequential import DetectorSettings

__all__ = ["SCREENED", "Look", "SearchResult", "prompts_to_search", "search_best", "search_crossing"]

SCREENED = 2
"""Batches of a checkpoint that only lead `search_best`."""

DrawAt = Callable[[int, int], tuple[int, int, int]]
"""Judges that many (second argument) responses of the checkpoint at an index (first) to random prompts; counts the
misaligned, the coherent (misaligned ones included) and the missing ones."""


@dataclass(frozen=True)
class Look:
    """Findings on one checkpoint."""

    index: int
    """Position of the checkpoint."""
    action: Action
    """`continue`: clear; `stop`: misaligned; `undecided`."""
    misaligned: int
    coherent: int
    judged: int
    """Responses asked for."""
    screened: int = 0
    """Number of those, the first ones, that were betted on paper only and bear no evidence."""


@dataclass(frozen=True)
class SearchResult:
    """The end of a search."""

    found: int | None
    """Position of the clear checkpoint; None if none was found."""
    next_misaligned: int | None
    """Position of the misaligned checkpoint after it (`search_crossing`); None if none was found."""
    looks: tuple[Look, ...]

    @property
    def judged(self) -> int:
        """Responses asked for in all."""
        return sum(look.judged for look in self.looks)


Evidence = Callable[[int], float]
"""Further evidence that the checkpoint at an index needs to be clear; see `SequentialRule.evidence`."""


def search_best(
    scores: Sequence[float], draw: DrawAt, settings: DetectorSettings, evidence: Evidence = lambda index: math.inf
) -> SearchResult:
    """The checkpoint with the best task score that is clear of the tolerance.

    P(the checkpoint found has a rate at or above the tolerance) <= beta, for the search as a whole: one coin is staked,
    the j-th time 1 / (j + 1) of what is left, on "this checkpoint is below"; it comes back diminished or not at all,
    never grown, from checkpoints that did not clear, so over the misaligned ones it is a fair game or worse (Ville).
    The first two batches (`SCREENED`) of a checkpoint are betted on paper: what is plainly misaligned costs no stake.

    Args:
        scores: (C,) task scores, higher is better; NaN is never looked at. On equal scores the earlier comes first.
        draw: Judges responses.
        settings: Tolerance, beta, batch and cap; `cap` bounds each look.
        evidence: Further evidence that clear needs.
    """
    order = sorted((i for i, s in enumerate(scores) if math.isfinite(s)), key=lambda i: (-scores[i], i))
    coin, stakes, looks = 1.0, 0, []
    for index in order:
        screen, _ = _look(index, (draw, evidence), settings, SCREENED * settings.batch, (1 / settings.suspicion, 0.0))
        if screen.action is Action.STOP:
            looks.append(screen)
            continue
        share = 1 / (stakes + 2)
        stakes += 1
        look, fate = _look(index, (draw, evidence), settings, settings.cap, (0.0, _error(settings.beta, coin, share)))
        looks.append(_joined(screen, look))
        if look.action is Action.CONTINUE:
            return SearchResult(index, None, tuple(looks))
        coin *= 1 - share + share * min(math.exp(fate), 1.0)
    return SearchResult(None, None, tuple(looks))


def search_crossing(
    count: int, draw: DrawAt, settings: DetectorSettings, evidence: Evidence = lambda index: math.inf
) -> SearchResult:
    """Two neighbouring checkpoints of which the earlier is clear and the later misaligned.

    Bisection. If the earlier is clear and a later one misaligned then the rate crosses the tolerance somewhere between,
    so halving keeps a crossing in the bracket whether or not there are others. Undecided checkpoints stay between the
    two. Each look is made at alpha / L and beta / L with L the most looks that bisection can take, so both claims hold
    together with probability 1 - alpha - beta.

    Args:
        count: Number of checkpoints, in order of steps.
        draw: Judges responses.
        settings: Tolerance, alpha, beta, batch and cap.
        evidence: Further evidence that clear needs.
    """
    if count < 1:
        return SearchResult(None, None, ())
    most = _most_looks(count)
    errors = (settings.alpha / most, settings.beta / most)
    looks: dict[int, Look] = {}

    def action(index: int) -> Action:
        if index not in looks:
            looks[index] = _look(index, (draw, evidence), settings, settings.cap, errors)[0]
        return looks[index].action

    clear = 0 if action(0) is Action.CONTINUE else None
    last = count - 1
    misaligned = last if count > 1 and action(last) is Action.STOP else None
    if clear is None or misaligned is None:
        found = last if misaligned is None and action(last) is Action.CONTINUE else clear
        return SearchResult(found, misaligned, tuple(looks.values()))
    while (middle := _middle(clear, misaligned, looks)) is not None and len(looks) < most:
        verdict = action(middle)
        if verdict is Action.CONTINUE:
            clear = middle
        elif verdict is Action.STOP:
            misaligned = middle
    return SearchResult(clear, misaligned, tuple(looks.values()))


def prompts_to_search(
    kind: Literal["best", "crossing"], stopping: StoppingConfig, count: int, limits: JudgeLimits | None = None
) -> float:
    """Number of different prompts below which no look of a search can call clear; 0 if these alone count.

    More than `prompts_to_clear`: a search shares its error out over looks, and what only leads it is no evidence.

    Args:
        kind: Which search.
        stopping: Its tolerance and errors.
        count: Checkpoints to search among.
        limits: What the judge was shown to see; None: all.
    """
    least, settings = prompts_to_clear(stopping, limits), DetectorSettings.of(stopping, limits)
    if not 0 < least < math.inf:
        return least
    if kind == "crossing":
        return draws_to_clear(settings.clear_below, settings.beta / _most_looks(max(count, 1)))
    return draws_to_clear(settings.clear_below, _error(settings.beta, 1.0, 0.5)) + SCREENED * settings.batch


def _error(beta: float, coin: float, share: float) -> float:
    """The error at which a look must clear, so that what is left of the coin with its stake reaches 1 / beta."""
    return share / (1 / beta / coin - (1 - share))


def _most_looks(count: int) -> int:
    return 2 * count if count < 4 else 2 * math.ceil(math.log2(count)) + 2


def _middle(clear: int, misaligned: int, looks: dict[int, Look]) -> int | None:
    """The unseen position nearest to the middle of a bracket."""
    open_ones = [i for i in range(clear + 1, misaligned) if i not in looks]
    return min(open_ones, key=lambda i: abs(2 * i - clear - misaligned), default=None)


def _look(
    index: int, asked: tuple[DrawAt, Evidence], settings: DetectorSettings, most: int, errors: tuple[float, float]
) -> tuple[Look, float]:
    """Judge a checkpoint until it is misaligned, clear, or more responses would probably tell neither.

    Args:
        index: Position of the checkpoint.
        asked: Judges responses, and gives the further evidence that clear needs.
        settings: Tolerance, what the judge was shown to see, and batch.
        most: Most responses.
        errors: Error probabilities of misaligned and of clear; 0 if that verdict is not wanted.

    Returns:
        The look, and the logarithm of the wealth betted on below.
    """
    misaligned = coherent = missing = judged = 0
    draw, evidence = asked
    action, below = Action.UNDECIDED, 0.0
    needed = [math.inf if error == 0 else -math.log(error) for error in errors]
    while judged < most and action is Action.UNDECIDED:
        size = min(settings.batch, most - judged)
        bad, usable, lost = draw(index, size)
        misaligned, coherent, missing = misaligned + bad, coherent + usable, missing + lost
        judged, every = judged + size, coherent + missing  # what is missing is never in a verdict's favour
        above = float(log_wealth(misaligned, every, settings.tolerance, ABOVE))
        below = float(log_wealth(misaligned + missing, every, settings.clear_below, BELOW))
        below = min(below, evidence(index))
        counts = (float(misaligned), float(every))
        if above >= needed[0]:
            action = Action.STOP
        elif below >= needed[1]:
            action = Action.CONTINUE
        elif judged >= 4 * settings.batch and is_hopeless(
            counts, most - judged, settings.tolerance, needed[0] - above, needed[1] - below
        ):
            break
    return Look(index, action, misaligned, coherent, judged), below


def _joined(screen: Look, look: Look) -> Look:
    return Look(
        look.index,
        look.action,
        screen.misaligned + look.misaligned,
        screen.coherent + look.coherent,
        screen.judged + look.judged,
        screen.judged,
    )
