"""Running logarithms of sums of exponentials along rows: infinities, NaN, terms that hardly count, long rows, both directions."""

from __future__ import annotations

import numpy as np
import pytest

from tracegrad import jit, lax
from tracegrad.experimental import enable_x64

INF, NAN = np.inf, np.nan
ROWS = {
    "nothing yet": [-INF, -INF, 1, 2],
    "everything": [INF, 1, -INF],
    "infinite twice": [INF, INF, -INF, -INF],
    "terms that hardly count": [0, -20, -30, -40],
    "no number": [1, NAN, 2],
    "large": [1e4, -1e4, 1e4 + 1],
    "long": list(np.random.default_rng(0).normal(size=500) * 30),
}


@pytest.mark.parametrize("reverse", (False, True))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("row", ROWS)
def test_running_logarithms(row: str, dtype: type, reverse: bool) -> None:
    x = np.array(ROWS[row], dtype)
    forward = x[::-1] if reverse else x
    with np.errstate(all="ignore"):
        wanted = np.logaddexp.accumulate(forward.astype(np.float64))
    wanted = wanted[::-1] if reverse else wanted
    with enable_x64():
        # zero and the first terms beside it: what is far below the largest term is kept to its own precision
        tolerance = 3e-6 if dtype is np.float32 else 1e-14
        f = jit(lambda x: lax.cumlogsumexp(x, reverse=reverse))
        np.testing.assert_allclose(f(x), wanted, rtol=tolerance)
        np.testing.assert_allclose(jit(lambda x: lax.cumlogsumexp(x, axis=1, reverse=reverse))(np.stack([x] * 9))[4], wanted, rtol=tolerance)
