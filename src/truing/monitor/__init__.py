"""The monitor: a checkpoint in, a decision out; with the store that keeps what it saw."""
