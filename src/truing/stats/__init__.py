"""Statistics of judged responses in which the prompt (and the seed) is the unit.

Rates, differences, correlations and judge error. Pure functions: no files, no network, no torch; random generators are
passed in. Undefined is NaN with a reason.

    rates        one rate, many rates, by category; the arrays' types and the counts by prompt
    categories   misalignment in one of them only
    paired       two sides on the same prompts        seeds        several runs of one configuration
    course       onset, convergence, their order      choice       checkpoint, learning rate, separability
    correlation  size against EM, over models         agreement    errors of judges, agreement of judges
    betting      evidence that may be looked at       search       a checkpoint among those that exist
    rules        stopping rules, the fixed one        sequential   the sequential one
"""
