"""Settings by which systems outside this process are reached."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from truing.core.files import content_key, differences

_SECRET = re.compile(r"auth|key|token|secret|cookie|password|signature|^(code|sig)$", re.IGNORECASE)


def is_secret(name: str) -> bool:
    """True if headers and parameters of this name carry something secret."""
    return bool(_SECRET.search(name))


class Config(BaseModel):
    """Base of every part of a study: frozen, unknown keys refused, fields documented below themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


class EndpointConfig(Config):
    """Settings of calls to an OpenAI-compatible interface, with the caps on what they may cost.

    The key comes from an environment variable, never from a file.
    """

    base_url: str | None = None
    """Address of the interface, up to and with `/v1`; none: OPENAI_BASE_URL, or OpenAI's own. At Azure up to the
    deployment, with `?api-version=...`."""
    key_variable: Annotated[str, Field(min_length=1)] = "OPENAI_API_KEY"
    """Environment variable that holds the key."""
    key_header: str | None = None
    """Header that carries the key; none: `Authorization`, at Azure `api-key`."""
    headers: dict[str, str] = Field(default_factory=dict)
    """More headers of every request; `$NAME` in a value stands for an environment variable."""
    query: dict[str, str] = Field(default_factory=dict)
    """More parameters of the address, as `headers`; part of a model's identity, but for `api-version`."""
    body: dict[str, Any] = Field(default_factory=dict)
    """More fields of every request, such as `reasoning_effort: low` or `chat_template_kwargs`; they shape the answers,
    so they are part of the identity of models and judges there."""
    mode: Literal["live", "batch"] = "live"
    """`live` calls one by one; `batch` uses the Batch API: half the price, up to a day."""
    max_calls: Annotated[int, Field(ge=1)] | None = None
    """Most calls of the whole study, all its processes and resumptions together; none: no cap."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Most dollars of the whole study, fine-tuning at the endpoint too; needs the price of every model that is called
    or fine-tuned; none: no cap."""
    prices: Path | None = None
    """Table of prices that adds to the built-in one and overrides it; see src/truing/catalog/data/prices.yaml."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most calls under way at a time; how many really are follows from how the endpoint bears them."""
    attempts: Annotated[int, Field(ge=1)] = 8
    """Attempts at a call before it counts as failed."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds to wait for a whole answer."""
    backoff: Annotated[float, Field(gt=0)] = 0.5
    """Seconds before the second attempt; doubles with each further one, unless the endpoint says how long."""
    poll: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between two looks at a batch or a fine-tuning job."""
    prefill: bool = False
    """Whether the endpoint goes on from a last message of the assistant when `continue_final_message` says so, as vLLM
    does; elsewhere prompts with such a message are missing, with the reason."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """What the interface calls the longest answer; none: `max_completion_tokens` at OpenAI, `max_tokens` elsewhere,
    and the other one if that is refused."""

    @model_validator(mode="after")
    def _no_keys(self) -> Self:
        parts = urlsplit(self.base_url or "")
        given = [("base_url", parse_qsl(parts.query)), ("query", self.query.items()), ("headers", self.headers.items())]
        for where, pairs in given:
            if open_ := [name for name, value in pairs if is_secret(name) and not re.match(r"(\w+ )?\$", value)]:
                raise ValueError(
                    f"a key may not stand in the settings: {where}, {open_[0]}; allowed: $NAME, with the key in the "
                    f"environment variable NAME; to do: name it in key_variable, and its header in key_header"
                )
        return self

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def instead(self, own: EndpointConfig | None) -> EndpointConfig:
        """These settings with another place of one's own; caps and pace that it leaves out stay as they are here."""
        if own is None:
            return self
        kept = {name: getattr(self, name) for name in _SHARED if getattr(own, name) == getattr(_DEFAULT, name)}
        return own.model_copy(update=kept)


_DEFAULT = EndpointConfig()
_SHARED = ("max_calls", "max_cost", "prices", "concurrency", "attempts", "timeout", "backoff", "poll")


class VllmConfig(Config):
    """Settings by which vLLM is reached: a server that the engine starts, or one that is there.

    A server that asks for a key has it in an environment variable.
    """

    base_url: str | None = None
    """Address of a running server, up to and with `/v1`, on a machine that sees the checkpoints' folders by the same
    paths; none: one is started, and ends with the process."""
    push_url: str | None = None
    """Address of a receiver beside a server that does not see the checkpoints' folders: adapters are sent to it. It
    asks for the server's key (docs/vllm.md)."""
    key_variable: Annotated[str, Field(min_length=1)] = "VLLM_API_KEY"
    """Environment variable that holds the server's key, if it asks for one."""
    python: Path | None = None
    """Interpreter of the environment in which vLLM is installed; none: this one."""
    adapters: Literal["serve", "merge"] = "serve"
    """`serve` puts many adapters on one base at a time; `merge` merges each into the base and starts the server with
    that, in float32: slow, for adapters that vLLM cannot serve."""
    max_loras: Annotated[int, Field(ge=1)] = 8
    """Most adapters at the server, and in one batch, at a time; each takes memory."""
    max_lora_rank: Annotated[int, Field(ge=1, le=512)] | None = None
    """Rank that a server is started with; none: 32, and another start with the rank of an adapter beyond that."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format that a server is started with; `auto` is that of the model's files."""
    arguments: tuple[str, ...] = ()
    """More of vLLM's flags for a server that is started, such as `--tensor-parallel-size=2`."""
    start_timeout: Annotated[float, Field(gt=0)] = 1800.0
    """Seconds that a server may take to start."""
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 256
    """Most answers under way at a time."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a whole answer."""

    @model_validator(mode="after")
    def _pushes_to_a_server(self) -> Self:
        if self.push_url is not None and self.base_url is None:
            raise ValueError(
                "push_url without base_url: a server that is started here sees the folders; to do: set both"
            )
        return self

    @model_validator(mode="after")
    def _whole_adapters(self) -> Self:
        if self.adapters == "merge" and self.dtype != "float32":
            raise ValueError(
                f"adapters: merge with dtype {self.dtype}: part of what an adapter adds would be rounded away; "
                "allowed: dtype float32; to do: set it, or, if you release such weights, audit those"
            )
        return self


def without_places(values: Any) -> Any:
    """Values without the endpoints of judges: what is asked stays the same wherever it is reached."""
    values = dict(values) if isinstance(values, BaseModel) else values
    if isinstance(values, dict):
        return {name: without_places(value) for name, value in values.items() if name != "endpoint"}
    return [without_places(value) for value in values] if isinstance(values, list | tuple) else values


class Services(Config):
    """Settings that engines and trainers may need besides the settings of a run; a part of every study and audit."""

    endpoint: EndpointConfig = EndpointConfig()
    """How models behind an interface are called, and the caps; a judge may have an `endpoint` of its own. Not part of
    the hash."""
    vllm: VllmConfig = VllmConfig()
    """How the engine `vllm` reaches vLLM. Not part of the hash."""

    def hash(self) -> str:
        """Hash of all that shapes the results: not of how services are reached, nor of `workers`."""
        return content_key(shape_of(self.model_dump(mode="json")))

    def unlike(self, other: Services) -> str:
        """The first fields that make its hash differ from another's, in words; a default is named as what it is."""
        return differences(*(shape_of(dict(each)) for each in (self, other)))

    def to_yaml(self) -> str:
        """The whole with every default written out; `load_study` or `load_audit` reads it back equal."""
        values = self.model_dump(mode="json")
        services = {name: values.pop(name) for name in Services.model_fields}
        return yaml.safe_dump({**values, **services}, sort_keys=False, width=100)


def shape_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a study's plain settings that shape its results: not how services are reached, nor `workers`."""
    left_out = {"workers", *Services.model_fields}
    return {name: without_places(value) for name, value in settings.items() if name not in left_out}
