"""Runs in an environment that has lsdensities: seconds of its HLT at one energy, from samples in an .npz, as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory


def seconds(path: Path) -> float:
    """Return how long lsdensities takes from bootstrap samples (boot, t), t = 1.., to a result by its plateau."""
    import numpy as np
    from lsdensities.InverseProblemWrapper import AlgorithmParameters, InverseProblemWrapper
    from lsdensities.utils.rhoUtils import Inputs, MatrixBundle, Obs, init_precision
    from mpmath import mpf

    data = np.load(path)
    samples, E, sigma = data["samples"], float(data["E"]), float(data["sigma"])
    init_precision(int(data["digits"]))
    boots, tmax = samples.shape
    par = Inputs()
    par.time_extent, par.tmax, par.num_boot, par.num_samples = tmax + 1, tmax, boots, boots
    par.periodicity, par.kerneltype, par.Na, par.Ne, par.A0cut = "EXP", "FULLNORMGAUSS", 1, 1, 0.1
    par.sigma, par.emin, par.emax, par.e0, par.prec = sigma, E, E, 0.0, int(data["digits"])
    par.logpath = par.plotpath = str(Path.cwd())
    par.assign_values()
    C = Obs(T=tmax + 1, tmax=tmax, nms=boots, is_resampled=True)
    C.sample[:, 1:], C.sample[:, 0] = samples, 1.0
    C.evaluate()
    C.evaluate_covmatrix()
    C.fill_mp_sample()
    began = time.perf_counter()
    bundle = MatrixBundle(Bmatrix=C.mpcov, bnorm=mpf(C.central[1] ** 2))
    problem = InverseProblemWrapper(
        par=par, algorithmPar=AlgorithmParameters(), matrix_bundle=bundle, correlator=C, energies=np.array([E])
    )
    problem.prepareHLT()
    problem.run(savePlots=False)
    return time.perf_counter() - began


if __name__ == "__main__":
    source = Path(sys.argv[1]).resolve()
    with TemporaryDirectory() as directory, contextlib.chdir(directory), contextlib.redirect_stdout(io.StringIO()):
        took = seconds(source)
    sys.stdout.write(json.dumps({"seconds": took}))
