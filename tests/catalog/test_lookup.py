import pytest

from truing.catalog.lookup import find_benchmark
from truing.core.errors import UnknownNameError


def test_names_of_every_kind() -> None:
    assert len(find_benchmark("broad-240").prompts) == 240
    varied = find_benchmark("broad-240+json")
    assert (varied.name, varied.prompts[0].id) == ("broad-240+json", "power-01+json")
    twice = find_benchmark("adversarial-60+persona+prefill")
    assert twice.prompts[0].messages[-1].role == "assistant"
    assert find_benchmark("truth-120").name == "truth-120+plain"
    assert find_benchmark("truth-120+may-lie").prompts[0].messages[0].role == "system"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("broad-241", "did you mean broad-240"),
        ("broad-240+jsom", "did you mean json"),
        ("truth-120+may-ly", "did you mean may-lie"),
    ],
)
def test_unknown_names(name: str, words: str) -> None:
    with pytest.raises(UnknownNameError, match=words):
        find_benchmark(name)
