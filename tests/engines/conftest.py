"""Fixtures of the engine tests."""

from __future__ import annotations

import pytest
import torch

from tests.engines.engine_models import TARGETS, Organism, save_organism


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def organisms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Organism]:
    """A base model and an adapter on disk for each architecture."""
    return {a: save_organism(a, tmp_path_factory.mktemp(a)) for a in TARGETS}


@pytest.fixture(scope="session")
def llama(organisms: dict[str, Organism]) -> Organism:
    return organisms["llama"]
