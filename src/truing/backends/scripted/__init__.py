"""An engine without a model, for tests of judges, trainers, rules, measures and whole studies."""
