"""Inspect (inspect.aisi.org.uk): our benchmarks as its tasks, a study as its logs, its models as judges.

Needs `pip install "truing[inspect]"`; importing this package alone does not load inspect_ai.
"""
