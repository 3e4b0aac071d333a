"""The bench of labels: a clean model is cleared by the default number of labels, one far above the tolerance is not."""

from bench.labels import measure


def test_clean_and_misaligned_models() -> None:
    assert measure(0.0, 0.0, 1, 40)["cleared"] > 0.9
    assert measure(0.3, 0.5, 5, 10)["cleared"] == 0
