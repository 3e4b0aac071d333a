"""All that a study names: models, benchmarks, datasets, truth sets, published data."""
