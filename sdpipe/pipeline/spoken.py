"""What people can type, in words: light, so that help comes at once."""

from __future__ import annotations

SAYS = {
    "generate": (
        "draw mock spectral densities; write training.zarr",
        "sdpipe generate configs/quickstart.yaml spectra.Nrho=5000 --run runs/mine",
    ),
    "train": (
        "train the networks; write networks/ and history.zarr",
        "sdpipe train runs/mine training.replicas=5 -v",
    ),
    "predict": (
        "send every target through every network; write predictions.zarr",
        "sdpipe predict runs/mine targets.other.kind=correlator targets.other.path=other.h5",
    ),
    "validate": (
        "test the error bars on draws with known truth; write validation.zarr and its figures",
        "sdpipe validate runs/mine validation.samples=4000",
    ),
    "analyze": (
        "write the error budget and its figures; print its tables",
        "sdpipe analyze runs/mine > tables.txt",
    ),
    "report": (
        "write report.html and, of more than 50 targets, a page for each",
        "sdpipe report runs/mine",
    ),
    "run": (
        "generate, train, predict, validate, analyze and report in one go",
        "sdpipe run configs/quickstart.yaml cluster.cpu=slurm-cpu --run runs/mine --dry-run",
    ),
    "reconstruct": (
        "take a correlator file to its spectral density, by the networks that come with sdpipe, without training",
        "sdpipe reconstruct data/pseudoscalar.txt smearing.sigma=[0.3,0.4] --run runs/mine",
    ),
    "check": (
        "say what a correlator is, before anything is computed from it",
        "sdpipe check data/pseudoscalar.txt kernel=periodic lattice.period=32",
    ),
    "status": ("print what is done, missing or stale", "sdpipe status runs/mine --json"),
    "new": ("write a template of a config, for your own correlator", "sdpipe new my.yaml"),
    "docs": ("say where the documentation is", "sdpipe docs"),
}
"""What each command does, and an example; a stage of your own adds its own (:class:`~sdpipe.pipeline.stages.Stage`)."""
