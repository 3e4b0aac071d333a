"""The model of a training, whole or spread over processes: saved under a name for its weights, and given saved ones."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from truing.backends import Engine
from truing.backends.transformers.engine import LiveEngine
from truing.core.distributed import Ranks
from truing.core.errors import ConfigError, DataError, EngineError
from truing.core.templates import is_asked_alike
from truing.integrations.guard.settings import GuardConfig
from truing.integrations.guard.sharded import gather, is_sharded, is_zero, scatter
from truing.integrations.guard.weights import (
    base_hash,
    base_name,
    check_model,
    count_base_parameters,
    has_files,
    is_adapted,
    put_back,
    read_saved,
    save_weights,
    saved_names,
    weights_hash,
)
from truing.monitor.formats import note_ends

logger = logging.getLogger(__name__)


class Model:
    """A model of `transformers` in training, with or without PEFT layers, and the tokenizer that it is asked with.

    The `config` says whether it is asked itself, or an engine its checkpoints.

    Raises:
        ConfigError: It cannot be saved, or not be asked in this way.
    """

    def __init__(self, model: Any, tokenizer: Any, config: GuardConfig, ranks: Ranks) -> None:
        self.model, self.tokenizer, self.ranks, self.is_live = model, tokenizer, ranks, config.is_live
        self.sharded, self.name, self._base = is_sharded(model), base_name(model), ""
        self.is_adapted, self.has_files = is_adapted(model), has_files(model)
        self.parameters = count_base_parameters(model)
        if self.sharded and (self.is_live or (is_zero(model) and not config.works_elsewhere)):
            raise ConfigError(
                f"a guard cannot sample from a sharded model by the engine {config.evaluation.engine}",
                type(model).__name__,
                "a model that is whole on rank 0, or an engine that works elsewhere",
                'engine="vllm" (docs/guard.md), or save checkpoints and judge those: truing audit --checkpoints',
            )
        if config.names_engine and not self.has_files:
            todo = "load the model from a folder or the hub, or leave `engine` out"
            raise ConfigError("the engine cannot know the base model", self.name, "a folder or a hub id", todo)
        check_model(model)
        self._saved = tokenizer if not self.is_live or (self.has_files and self._is_unlike_base()) else None

    def _is_unlike_base(self) -> bool:
        """True if the tokenizer is known not to be that of the base: with it the weights are another model."""
        with suppress(DataError):
            return not is_asked_alike(self.name, self.tokenizer)
        return False  # the base has none

    def live(self) -> Engine | None:
        """Samples from the model as it is; None where an engine samples from its checkpoints."""
        return LiveEngine(self.model, self.tokenizer) if self.is_live else None

    def gathered(self) -> dict[str, Any] | None:
        """The weights of a sharded model, on rank 0; nothing of a whole one; None if it failed. On all ranks."""
        try:
            return gather(self.model, set(saved_names(self.model).values()), self.ranks) if self.sharded else {}
        except Exception:  # it ends no training: the step is not evaluated
            logger.exception("gathering the weights failed")
            return None

    def save(self, folder: Path, weights: dict[str, Any] | None) -> tuple[str, str]:
        """Save what `gathered` gave, on rank 0, in a guard's `checkpoints`; where it lies, and the hash of the weights.

        Raises:
            EngineError: There are none.
        """
        if weights is None or (self.sharded and not weights):
            raise EngineError("the weights could not be gathered", todo="see the log of each process")
        self._base = self._base or base_hash(self.model)
        path = save_weights(self.model, folder, weights or None, self._saved)
        if not self.is_adapted:
            note_ends(folder.parents[1], path)
        return str(path.absolute()), weights_hash(self.model, path, self._base)

    def put(self, path: str) -> None:
        """Load saved weights into the model of this process.

        Raises:
            TrainerError: Not every tensor arrived.
        """
        put_back(self.model, path)

    def put_everywhere(self, path: str) -> None:
        """Load saved weights that rank 0 sees into the models of all ranks, which call this together.

        Raises:
            TrainerError: Not every tensor arrived.
        """
        if not self.sharded:
            self.ranks.share(lambda: self.put(path))
            self.ranks.spread(p for p in self.model.parameters() if p.requires_grad or not self.is_adapted)
            return
        tensors: dict[str, Any] = {}
        self.ranks.share(lambda: tensors.update(read_saved(self.model, path)))
        scatter(self.model, tensors, self.ranks)
