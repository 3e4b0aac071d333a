"""Models in this process, by `transformers` and PEFT."""
