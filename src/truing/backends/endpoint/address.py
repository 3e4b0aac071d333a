"""The address of an endpoint, the key that opens it, and the names of models there."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from truing.catalog.models import find_model
from truing.config import EndpointConfig
from truing.core.errors import ConfigError, EndpointError, MissingExtraError
from truing.core.files import content_key

__all__ = ["OFFICIAL", "Access", "endpoint_address", "endpoint_model", "endpoint_weights", "require_extra"]

OFFICIAL = "https://api.openai.com/v1"
"""The address of the protocol's own provider."""


def require_extra() -> None:
    """Check that the libraries are there, without importing them.

    Raises:
        MissingExtraError: `openai` or `aiohttp` is not installed.
    """
    for library in ("openai", "aiohttp"):
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError.of(library, "openai")


def endpoint_address(config: EndpointConfig) -> str:
    """The address of the endpoint, without a slash at the end.

    Raises:
        ConfigError: It is not an address, or holds a password.
    """
    address = (config.base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigError(
            "the endpoint's address cannot be used",
            repr(address.rpartition("@")[2]),
            "http://HOST:PORT/v1 or https://HOST/v1, without a user name",
            f"set endpoint.base_url or OPENAI_BASE_URL; the key belongs in {config.key_variable}",
        )
    return address


def endpoint_model(name: str) -> str:
    """The endpoint's name of a model: OpenAI's dated id where the catalogue knows one, else the name itself."""
    known = find_model(name)
    return name if known is None else known.ids.get("openai", name)


def endpoint_weights(config: EndpointConfig, model: str) -> str:
    """The stand-in for the hash of the weights of an endpoint's model: a hash of its address and name."""
    return content_key("endpoint", endpoint_address(config), model)


@dataclass(frozen=True)
class Access:
    """Address and key of an endpoint; the key is in no text of this object."""

    address: str
    key_variable: str
    key: str = field(repr=False)
    """Empty if there is none, which is right for many servers of one's own."""

    @classmethod
    def of(cls, config: EndpointConfig) -> Access:
        """The access that a config names.

        Raises:
            ConfigError: The address cannot be used.
            EndpointError: OpenAI's own endpoint, and no key.
        """
        address, variable = endpoint_address(config), config.key_variable
        key = os.environ.get(variable, "")
        if not key and address == OFFICIAL:
            raise EndpointError("OpenAI's interface needs a key", f"{variable} is not set", todo=f"set {variable}")
        return cls(address, variable, key)
