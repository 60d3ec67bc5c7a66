"""Draw docs/pseudoscalar.png: what ``sdpipe reconstruct data/pseudoscalar.txt`` answers, beside the truth.

    python docs/pseudoscalar.py [RUN]

RUN is runs/pseudoscalar where it is not given. The truth is the sum of states that data/pseudoscalar.py is made of.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import sdpipe
from sdpipe.physics.smearing import Gaussian
from sdpipe.show import figures

HERE = Path(__file__).resolve()


def main(run: sdpipe.run.Run) -> None:
    """Draw and save the figure."""
    made = runpy.run_path(str(HERE.parents[1] / "data" / "pseudoscalar.py"))
    with mpl.rc_context(figures.STYLE):
        figure = Figure(figsize=(10, 3.9))
        figure.subplots_adjust(left=0.08, right=0.99, top=0.95, bottom=0.14, wspace=0.22)
        for sigma, ax in zip(run.budget["pseudoscalar"].sigma.values, figure.subplots(1, 2), strict=True):
            run.plot.reconstruction("pseudoscalar", sigma=sigma, ax=ax)
            E = np.linspace(*ax.get_xlim(), 300)
            truth = Gaussian()(E[:, None], made["ENERGIES"], sigma) @ made["AMPLITUDES"]
            ax.plot(E, truth, "--", color=figures.COLOURS[1], label="truth")
            figures.legend_above(ax, 4, title=f"aσ = {sigma:g}", fontsize=8, columnspacing=1)
        figure.savefig(HERE.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main(sdpipe.open_run(sys.argv[1] if sys.argv[1:] else "runs/pseudoscalar"))
