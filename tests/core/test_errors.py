import json
import pickle
import re

import pytest

from truing.core import errors
from truing.core.errors import (
    ConfigError,
    EngineError,
    MissingExtraError,
    StoreError,
    TrainerError,
    TruingError,
    UnknownNameError,
    UserError,
    boundary,
    plural,
)

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, TruingError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda k: k.__name__)
def test_every_error_pickles_whole(kind: type[TruingError]) -> None:
    error = pickle.loads(pickle.dumps(kind("what", "got", "allowed", "todo")))
    assert type(error) is kind
    assert str(error) == "what\n  got: got\n  allowed: allowed\n  to do: todo"


def test_the_tree_in_the_header_is_true() -> None:
    assert errors.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in errors.__doc__


def test_unknown_name_suggests_close_ones() -> None:
    error = UnknownNameError.of("judge", "pockt", ["pocket", "llm"])
    assert isinstance(error, UserError)
    assert "did you mean pocket?" in str(error)
    assert "llm" in str(error)


def test_missing_extra_gives_the_pip_line() -> None:
    assert 'pip install "truing[hf]"' in str(MissingExtraError.of("torch", "hf"))


def test_boundary_turns_foreign_errors_into_ours() -> None:
    with pytest.raises(TrainerError, match="ZeroDivisionError") as caught, boundary("training", TrainerError):
        raise ZeroDivisionError("oh")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert re.fullmatch(r"ZeroDivisionError: oh \(test_errors.py, line \d+\)", caught.value.got)  # a plugin's, say
    with pytest.raises(TrainerError) as caught, boundary("training", TrainerError):
        json.loads("{")
    assert "(test_errors.py, line" in caught.value.got  # where it was called, not where in the library


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left")])
def test_boundary_knows_a_full_disk(error: Exception) -> None:
    with pytest.raises(StoreError, match="disk is full"), boundary("training", EngineError):
        raise error


def test_boundary_lets_our_own_errors_pass() -> None:
    with pytest.raises(ConfigError, match="mine"), boundary("training", TrainerError):
        raise ConfigError("mine")


def test_one_of_a_thing_is_not_said_as_of_many() -> None:
    assert [plural(n, "run") for n in (0, 1, 2, 1200)] == ["0 runs", "1 run", "2 runs", "1,200 runs"]
    assert [plural(n, "answer has", "answers have") for n in (1, 2)] == ["1 answer has", "2 answers have"]
