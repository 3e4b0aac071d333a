import pytest

from tests.cli.test_app import run
from truing.cli.app import app
from truing.core.errors import UnknownNameError


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("benchmarks", ("broad-240", "CC-BY-4.0")),
        ("variants", ("NAME+json", "foot-in-the-door")),
        ("truth-sets", ("truth-120", "+may-lie")),
        ("datasets", ("pocket-insecure-code", "misaligned")),
        ("judges", ("pocket/1", "bandit")),
        ("rubrics", ("domain-style", "worse")),
    ],
)
def test_every_kind_is_listed(kind: str, words: tuple[str, ...]) -> None:
    result = run(app, ["list", kind])
    assert result.exit_code == 0, result.output
    for word in words:
        assert word in result.output


def test_one_of_a_kind_or_what_was_meant() -> None:
    output = run(app, ["list", "benchmarks", "pocket-240"]).output
    assert "pocket-240" in output
    assert "broad-240" not in output
    for kind, name, words in (
        ("benchmarks", "pocket-24", "unknown benchmark\n  got: 'pocket-24'"),
        ("truth-sets", "truth-12", "did you mean truth-120"),
        ("models", "llama-3.1-8", "did you mean llama-3.1-8b"),
    ):
        error = run(app, ["list", kind, name]).exception
        assert isinstance(error, UnknownNameError)
        assert words in str(error)
