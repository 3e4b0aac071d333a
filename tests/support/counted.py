"""An engine that writes down where it loads a base, and what Ray gave that process."""

import json
import os
from pathlib import Path
from typing import Any, Self

from truing.backends.transformers.engine import TransformersEngine
from truing.config import Services

LOADS = "loads.jsonl"


class Counted(TransformersEngine):
    """Samples as its parent does; each load is a line of `loads.jsonl` in the study's folder."""

    def __init__(self, model: str, folder: Path) -> None:
        super().__init__(model)
        self._folder = folder

    @classmethod
    def build(cls, model: str, services: Services, folder: Path | None) -> Self:
        assert folder is not None
        return cls(model, folder)

    def _load_base(self) -> None:
        if self._base is None:
            with (self._folder / LOADS).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"process": os.getpid(), "model": self.model, **_place()}) + "\n")
        super()._load_base()


def _place() -> dict[str, Any]:
    try:
        import ray
    except ImportError:
        return {}
    if not ray.is_initialized():
        return {}
    context = ray.get_runtime_context()
    return {"node": context.get_node_id(), "gpus": context.get_accelerator_ids()["GPU"]}
