"""Work that goes on in threads while training does, one piece after the other, and how long training waits for it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from truing.core.errors import EngineError
from truing.core.records import Checkpoint
from truing.integrations.guard.measures import Record, failed

logger = logging.getLogger(__name__)

_SAID_EVERY = 60.0


@dataclass
class _Piece:
    checkpoint: Checkpoint
    due: float
    """Step at which training waits for it."""
    made: Future[list[Record]]
    given_up: bool = False


class Late:
    """Evaluations under way, in the order of their steps; training stands still for one of them `patience` seconds.

    Where that is not enough, `strict` raises, instead of going on undecided.
    """

    def __init__(self, patience: float, strict: bool) -> None:
        self.patience, self.strict = patience, strict
        self._pieces: list[_Piece] = []

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """Those whose evaluation is under way."""
        return [piece.checkpoint for piece in self._pieces]

    @property
    def stuck(self) -> bool:
        """True if training has stopped waiting for the first of them."""
        return any(piece.given_up for piece in self._pieces)

    def add(self, checkpoint: Checkpoint, due: float, work: Callable[[], list[Record]]) -> None:
        """Do this work when what was added before is done; training waits for it from step `due` on."""
        before, made = self._pieces[-1:], Future[list[Record]]()

        def run() -> None:
            wait([piece.made for piece in before])
            try:
                made.set_result(work())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                made.set_exception(error)

        self._pieces.append(_Piece(checkpoint, due, made))
        # a daemon: a server that never answers must not keep the process from ending
        threading.Thread(target=run, name="truing-guard", daemon=True).start()

    def arrived(self, step: float) -> list[Record]:
        """The records that are there, and at a step those that are due by then, which are waited for.

        Raises:
            TruingError: What the work raised.
            EngineError: Patience is at its end, and that is not to be borne.
        """
        records: list[Record] = []
        while self._pieces and self._ready(self._pieces[0], step):
            records += self._pieces.pop(0).made.result()
        return records + [self._give_up(piece) for piece in self._pieces if piece.due <= step and not piece.given_up]

    def _ready(self, piece: _Piece, step: float) -> bool:
        start = time.monotonic()
        while piece.due <= step and not piece.given_up and not piece.made.done():
            left = self.patience - (time.monotonic() - start)
            if left <= 0:
                break
            wait([piece.made], timeout=min(left, _SAID_EVERY))
            if not piece.made.done():
                seconds = time.monotonic() - start
                logger.warning(
                    "training waits for the decision on step %d: %.0f s so far", piece.checkpoint.step, seconds
                )
        return piece.made.done()

    def _give_up(self, piece: _Piece) -> Record:
        piece.given_up, first = True, self._pieces[0].checkpoint.step
        error = EngineError(
            f"the decision on step {piece.checkpoint.step} has not arrived",
            f"the evaluation of step {first} is still under way after {self.patience:g} s",
            "a server and a judge that answer in time",
            "look at the server's log; raise `patience`, or `lag`. The decision counts when it arrives",
        )
        if self.strict:
            raise error
        return failed(piece.checkpoint, str(error))
