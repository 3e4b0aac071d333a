"""The address of an endpoint, the key that opens it, and the names of models there."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlencode, urlsplit

from truing.catalog.models import find_model
from truing.config import EndpointConfig
from truing.config.services import is_secret
from truing.core.errors import ConfigError, EndpointError
from truing.core.files import content_key

OFFICIAL = "https://api.openai.com/v1"
"""The address of the protocol's own provider."""
_VERSION = "api-version"
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")


def endpoint_address(config: EndpointConfig) -> str:
    """The address of the endpoint as identities name it: without a slash at the end, and without `api-version`.

    Raises:
        ConfigError: It is not an address, or holds a password.
    """
    address, query = _place(config)
    named = {name: value for name, value in query.items() if name != _VERSION}
    return address + (f"?{urlencode(sorted(named.items()))}" if named else "")


def _place(config: EndpointConfig) -> tuple[str, dict[str, str]]:
    """Address without its parameters, and these with those of the settings, `$NAME` as it stands."""
    given = config.base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ConfigError(
            "the endpoint's address cannot be used",
            repr(given.rpartition("@")[2].partition("?")[0]),
            "http://HOST:PORT/v1 or https://HOST/v1, without a user name",
            f"set endpoint.base_url or OPENAI_BASE_URL; the key belongs in {config.key_variable}",
        )
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) | config.query
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path}", query


def _from_environment(pairs: dict[str, str]) -> dict[str, str]:
    """Values in which `$NAME` is what the environment says.

    Raises:
        EndpointError: It says nothing.
    """

    def filled(match: re.Match[str]) -> str:
        if (value := os.environ.get(match[1])) is None:
            raise EndpointError("a header or parameter needs a variable", f"{match[1]} is not set", todo="set it")
        return value

    return {name: re.sub(r"\$\{?(\w+)\}?", filled, value) for name, value in pairs.items()}


def endpoint_model(name: str) -> str:
    """The endpoint's name of a model: OpenAI's dated id where the catalogue knows one, else the name itself."""
    known = find_model(name)
    return name if known is None else known.ids.get("openai", name)


def endpoint_weights(config: EndpointConfig, model: str) -> str:
    """The stand-in for the hash of an endpoint's model: a hash of address, name, and what else is asked of it."""
    return content_key("endpoint", endpoint_address(config), model, *([config.body] if config.body else []))


@dataclass(frozen=True)
class Access:
    """Address and key of an endpoint; nothing secret is in a text of this object."""

    address: str
    """Without parameters."""
    key_variable: str
    key: str = field(repr=False)
    """Empty if there is none, which is right for many servers of one's own."""
    headers: dict[str, str] = field(repr=False)
    """Those that open it, and those that the settings add."""
    query: dict[str, str] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """Texts that may be shown nowhere."""

    @classmethod
    def of(cls, config: EndpointConfig) -> Access:
        """The access that a config names.

        Raises:
            ConfigError: The address cannot be used.
            EndpointError: OpenAI's own endpoint, and no key; or a variable that a header needs is not set.
        """
        address, query = _place(config)
        variable, key = config.key_variable, os.environ.get(config.key_variable, "")
        if not key and address == OFFICIAL:
            raise EndpointError("OpenAI's interface needs a key", f"{variable} is not set", todo=f"set {variable}")
        azure = _VERSION in query or str(urlsplit(address).hostname).endswith(_AZURE)
        header = config.key_header or ("api-key" if azure else "Authorization")
        own = _from_environment(config.headers)
        carried = f"Bearer {key or 'none'}" if header.lower() == "authorization" else key
        headers = ({header: carried} if carried else {}) | own
        query = _from_environment(query)
        given = config.headers | config.query
        filled = [v for name, v in (own | query).items() if "$" in given.get(name, "") or is_secret(name)]
        secrets = tuple(filter(None, (key, *filled, *(value.rpartition(" ")[2] for value in filled))))
        return cls(address, variable, key, headers, query, secrets)
