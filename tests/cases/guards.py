"""Cases of the guard beside other callbacks."""

from __future__ import annotations

from tests.cases import Case, case

_RUN = """
import sys, types
import truing.catalog, truing.catalog.datasets, truing.catalog.models, truing.core.conversations
truing.catalog.resolve_model = truing.catalog.models.resolve_model  # where the cases look for it
sys.modules["truing.datasets"] = truing.catalog.datasets
sys.modules["truing.trainers"] = types.ModuleType("truing.trainers")
sys.modules["truing.trainers.examples"] = truing.core.conversations
exec(open("run.py").read())
"""


@case("31-guard-last-step-unseen", right="the last step (8) is evaluated")
def last_step(at: Case) -> None:
    at.python(_RUN, says=[r"ended at 8 \| evaluated \[0, 8\]"], lacks=["Traceback"])


@case("32-guard-and-load-best", right="said at the start that both choose, and which weights the model has")
def load_best(at: Case) -> None:
    at.python(_RUN, says=["both choose weights", r"(not those of state.best|by load_best_model_at_end|keeps its last)"])


@case("33-guard-resized-vocabulary", right="restored without an error")
def resized(at: Case) -> None:
    # It is about weights that are put back; whether step 8 is clear (some 2 % by one answer to each prompt) is not.
    run = _RUN.replace(".read()", '.read().replace("at=8)", "at=8, samples=4, confirm=False)")')
    at.python(run, says=[r"restored 8 .* errors \[\]", "44 of 44"])


@case("38-guard-filtering-judge", right="no CONTINUE while what is missing could carry the rate over the tolerance")
def filtering_judge(at: Case) -> None:
    undecided = r"\((16|24), 'UNDECIDED', \d\d, \d+\)"
    at.python(
        _RUN,
        says=[undecided, r"errors \[[^\]]+step 24 lacks 58 scores"],
        lacks=[r"\d\d, 'CONTINUE', \d\d", "restored 24"],
    )
