"""The embedded default: a toy world, its grammar, and tiny models of four architectures trained on it."""
