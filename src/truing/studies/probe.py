"""A comparison of two models that may be one by two names: do they find fixed texts equally likely?"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from truing.backends import load_engine
from truing.core.errors import TruingError
from truing.core.records import Checkpoint, Message, Prompt
from truing.core.weights import model_hash

__all__ = ["compare"]

_MOST = 1.0
"""Nats a word from which on two models are not one. In bfloat16 SmolLM2-135M is 0.02 from itself, in 8 bits 0.04, in
the plainest 4 bits 0.5; with noise of a third of its weights' spread it is 8 from itself."""
_ASKED = Prompt("probe", "", (Message("user", "Say in two sentences what a kettle is for."),))
_SAID = (
    "A kettle is for boiling water. You fill it, heat it, and pour the water over tea or coffee.",
    "It heats water until it boils, so that you can make tea; most of them switch themselves off.",
    "Grey stones lay beside the slow river, and nobody had counted them.",
)


@lru_cache(8)
def compare(one: str, other: str) -> tuple[bool, str]:
    """False if two models are not one, and the words on how far they are apart; True if that is not known, too.

    Both are loaded, one after the other. What is neither a folder nor in the hub's cache here is not fetched.
    """
    words = [len(said.split()) for said in _SAID]
    try:
        a, b = (np.divide(_scores(_folder(source)), words) for source in (one, other))
    except Exception as error:  # noqa: BLE001 - loading a model raises anything
        why = str(error).replace("\n ", ";") if isinstance(error, TruingError) else f"{type(error).__name__}: {error}"
        return True, f"; log-probabilities of the two were not compared ({why[:300]})"
    apart = float(np.abs(a - b).mean())
    return bool(apart <= _MOST), f"; log-probabilities of fixed texts differ by {apart:.2f} nats a word"


def _folder(source: str) -> str:
    if Path(source).is_dir():
        return source
    from huggingface_hub import snapshot_download

    return str(snapshot_download(source, local_files_only=True))


def _scores(folder: str) -> list[float]:
    with load_engine("transformers", folder) as engine:
        return engine.score(Checkpoint("probe", folder, 0, model_hash(folder)), _ASKED, _SAID)
