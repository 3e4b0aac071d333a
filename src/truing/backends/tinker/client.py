"""Tinker as its trainer and its engine know it: the way to reach it, its names of models, the meaning of its errors.

The key is in TINKER_API_KEY (or where `tinker auth login` put it), the address in TINKER_BASE_URL; without one it is
Tinker's own service. Any server of the same interface will do.

Tinker shows no weights: `tinker_weights` hashes address and name instead. A saved checkpoint has a name of its own; a
base model that the service changes under its name goes unnoticed.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import tinker

from truing.catalog.models import find_model, resolve_model
from truing.core.errors import EndpointError, TruingError, WorkError, did_you_mean
from truing.core.files import content_key

logger = logging.getLogger(__name__)

SCHEME = "tinker://"
"""The beginning of the names of saved weights."""
SERVICE = "https://tinker.thinkingmachines.dev/services/tinker-prod"
_REFUSED = (401, 402, 403)
"""HTTP statuses after which no further call can succeed: the key, the bill, or the rights."""
_PROBE, _CLOSE = 20.0, 30.0
"""Seconds to wait for a sign of life, and for a session to end."""


def tinker_weights(name: str) -> str:
    """A hash of address and name, in place of that of the weights of a base model or of saved weights."""
    return content_key("tinker", _address(), name)


def tinker_name(model: str) -> str:
    """The name of a model on Tinker: a model of the catalogue by its id there, anything else as it is loaded elsewhere.

    Raises:
        UnknownNameError: No model of that name.
    """
    if model.startswith(SCHEME):
        return model
    known = find_model(model)
    return resolve_model(model) if known is None else known.ids.get("tinker", known.source)


def offered_name(service: Any, model: str, kind: type[WorkError]) -> str:
    """The name of a base model on Tinker, which was asked whether it offers the model.

    Raises:
        EndpointError: It does not offer the model (any more).
    """
    name, known = tinker_name(model), find_model(model)
    end = known.until.get("tinker", "") if known else ""
    with calling("asking Tinker for its models", kind):
        answer = _rest(service).get_server_capabilities()
        offered = [each.model_name for each in finished(answer).supported_models if each.model_name]
    if name not in offered:
        raise EndpointError(
            f"Tinker does not offer {name}" + (f" since {end}" if end else ""),
            model,
            ", ".join(sorted(offered)),
            did_you_mean(name, offered) or "choose a model that is offered",
        )
    if end and end < datetime.now(UTC).date().isoformat():
        logger.warning("Tinker offers %s although it was to end on %s", name, end)
    return name


@contextmanager
def connected(kind: type[WorkError]) -> Iterator[Any]:
    """A `tinker.ServiceClient` whose session ends with the block.

    Raises:
        EndpointError: Tinker refuses the key, or there is none.
        WorkError: Of that kind: it cannot be reached.
    """
    service = open_service(kind)
    status = "errored"
    try:
        yield service
        status = "success"
    except (KeyboardInterrupt, SystemExit):
        status = "interrupted"
        raise
    finally:
        close_service(service, status)


def open_service(kind: type[WorkError]) -> Any:
    """A `tinker.ServiceClient`, to be ended by `close_service`; raises as `connected` does."""
    # What the SDK reports of itself to Tinker it goes on sending long after a server is gone.
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    with calling("connecting to Tinker", kind):
        _expect_life()
        return tinker.ServiceClient(user_metadata={"client": "truing"})


def close_service(service: Any, status: str = "success", wait: bool = True) -> None:
    """End a session with all that the SDK does for it in the background.

    The SDK's one event loop stays, in a thread of the process, and does nothing.
    """
    if not hasattr(service, "close"):  # not before SDK 0.30
        return
    with suppress(Exception):
        ending = service.close(status)
        if wait:
            try:
                ending.result(timeout=_CLOSE)
            finally:
                take_back(ending)  # nobody is there: no more attempts to tell of the end


def drop_service(service: Any) -> None:
    """End a session that nobody holds any more, in whatever thread that is found: the SDK's own must not wait."""
    close_service(service, wait=threading.current_thread() is threading.main_thread())


def forget_state(service: Any, path: str) -> None:
    """Delete a saved training state that is no longer needed; one that cannot be deleted stays."""
    try:
        finished(_rest(service).delete_checkpoint_from_tinker_path(path))
    except Exception as error:  # noqa: BLE001 - the state only takes room
        logger.info("could not delete the training state %s: %s", path, _text(error))


def finished(future: Any) -> Any:
    """The result of an SDK call; older SDKs give some results without a future."""
    return future.result() if hasattr(future, "result") else future


def take_back(future: Any) -> None:
    """Cancel an SDK call whose result nobody waits for."""
    (future.future() if hasattr(future, "future") else future).cancel()


@contextmanager
def calling(what: str, kind: type[WorkError], todo: str = "") -> Iterator[None]:
    """Turns whatever the SDK raises into an error of ours; see `as_our_error`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the SDK raises anything
        raise as_our_error(error, what, kind, todo) from None  # a cause would be printed with all that a server replied


def as_our_error(error: Exception, what: str, kind: type[WorkError], todo: str = "") -> TruingError:
    """The error of ours that an error of the SDK means; one of ours is itself.

    A failure that may pass becomes a `kind`.
    """
    if isinstance(error, TruingError):
        return error
    text, where = _text(error), _address() or "Tinker's own service"
    if _status(error) in _REFUSED or type(error) is tinker.TinkerError:
        return EndpointError(
            "Tinker refuses the key, or has none",
            text,
            "a valid key in TINKER_API_KEY, of an account that may use and pay for the service",
            "set TINKER_API_KEY, or run `tinker auth login`",
        )
    if isinstance(error, tinker.APIConnectionError | urllib.error.URLError):
        return kind(
            f"{what}: cannot reach Tinker",
            f"{text} at {where}",
            "a server of Tinker's interface",
            "check the network and TINKER_BASE_URL, then run the same command again: finished work is kept",
        )
    return kind(f"{what} failed", text, todo=todo or "run the same command again: finished work is kept")


def _address() -> str:
    """Where the service is; empty: Tinker's own."""
    return os.environ.get("TINKER_BASE_URL", "").rstrip("/")


def _expect_life() -> None:
    """Fail at once where nobody answers: the SDK would go on trying for minutes."""
    try:
        urllib.request.urlopen(f"{_address() or SERVICE}/api/v1/healthz", timeout=_PROBE).close()
    except urllib.error.HTTPError as reply:
        reply.close()
    except urllib.error.URLError as error:
        # Certificates and proxies are the SDK's own affair.
        if isinstance(error.reason, ConnectionRefusedError | socket.gaierror | TimeoutError):
            raise


def _rest(service: Any) -> Any:
    # One without the service's connections would keep its own for the life of the process.
    if hasattr(tinker, "RestClient"):
        return tinker.RestClient(service.holder)
    rest = service.create_rest_client()  # SDK 0.21, which a server of today may still need
    rest.get_server_capabilities = service.get_server_capabilities
    return rest


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, which the SDK may have wrapped."""
    while error is not None:
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None


def _text(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"
    key = os.environ.get("TINKER_API_KEY")
    return (text.replace(key, "[key]") if key else text)[:1000]
