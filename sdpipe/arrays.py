"""The type of nearly every argument."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
"""An array of real numbers; docstrings give its axes, as in (sample, sigma, E)."""
