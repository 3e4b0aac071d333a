import pytest

from tests.cli.test_app import run
from truing.cli.app import app


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
