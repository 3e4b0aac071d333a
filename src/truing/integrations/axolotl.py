"""The guard as a plugin of axolotl.

plugins:
  - truing.integrations.axolotl.GuardPlugin
truing:
  judge: openai:gpt-4o
  benchmark: broad-240
  at: 50
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from truing.core.errors import ConfigError
from truing.integrations.frameworks import make_guard


class GuardArgs(BaseModel):
    """What the plugin adds to axolotl's file."""

    truing: dict[str, Any]
    """Keywords of `truing.Guard`; see `truing.integrations.frameworks`."""


class GuardPlugin(BasePlugin):
    """Has a guard watch the trainer that axolotl makes."""

    def get_input_args(self) -> str:
        """Name what axolotl's file may hold besides."""
        return f"{GuardArgs.__module__}.{GuardArgs.__qualname__}"

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Watch the trainer.

        Raises:
            ConfigError: Settings of the guard, or axolotl would release other weights than those of the model.
        """
        fsdp = cfg.fsdp_config or {}
        final = fsdp.get("final_state_dict_type") or fsdp.get("state_dict_type")
        if final == "SHARDED_STATE_DICT" and not cfg.adapter:
            raise ConfigError(
                "axolotl would release its last checkpoint, and not the weights that the guard puts back",
                f"fsdp_config: state dict type {final}",
                "FULL_STATE_DICT",
                "set final_state_dict_type: FULL_STATE_DICT",
            )
        make_guard(cfg.truing, cfg.output_dir).watch(trainer)
