"""A few of the draws that ``python -m benchmarks limits`` has: do errors hold on mocks of known truth?"""

from __future__ import annotations

import numpy as np

from benchmarks import limits
from sdpipe.physics import rng


def test_an_average_over_models_covers_and_is_as_good_as_the_best_model_over_all_sizes_of_an_effect() -> None:
    rows = limits.of_limits(rng.generator(1, "a4").uniform(0, 8, 400), "any")
    *covered, ratio = [row.ours for row in rows]
    np.testing.assert_allclose(covered[::2], 68.3, atol=5)
    np.testing.assert_allclose(covered[1::2], 95.4, atol=3)
    assert ratio <= 1.1


def test_the_rest_of_a_known_state_is_covered_and_better_known_below_the_second_level() -> None:
    without, known = ([limits.half_widths(i, name) for i in range(4)] for name in ("", "known exactly"))
    assert np.mean([one[2] for one in known]) < 0.75 * np.mean([one[2] for one in without])
    pulls = np.concatenate([one[1] for one in (*without, *known)])
    assert np.mean(pulls < 1) > 0.6
    assert np.mean(pulls < 2) > 0.9


def test_a_state_that_is_known_tells_little_of_what_lies_above_even_to_who_knows_the_family() -> None:
    without, known = (limits.half_widths_of_family(0, which) for which in (False, True))
    assert 0.7 < known.mean() / without.mean() < 1
