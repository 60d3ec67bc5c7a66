"""Measurements with their baselines: ``python -m benchmarks``, see docs/performance.md."""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # as in a worker; read when NumPy is imported
