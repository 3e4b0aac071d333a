"""Estimates for tests of what is decided on them."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from truing.core.records import Estimate

NAN = math.nan
UNKNOWN = Estimate(NAN, NAN, NAN, 0, 0, 10, "test", "no usable responses")


def rate(value: float, margin: float = 0.01) -> Estimate:
    """A rate in [0, 1] whose limits are `margin` away, within [0, 1]."""
    return Estimate(value, max(value - margin, 0.0), min(value + margin, 1.0), 240, 2400, 0, "test")


shares = st.floats(0, 1)
rates = st.one_of(st.just(UNKNOWN), st.builds(rate, shares, st.floats(0, 0.2)))
scores = st.one_of(st.just(NAN), st.floats(-1, 1))
