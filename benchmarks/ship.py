"""Put the audience of a run of configs/universal.yaml into the package: ``python -m benchmarks.ship RUN``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sdpipe
from sdpipe.config.origins import PLACE
from sdpipe.config.schema import plain
from sdpipe.disk import files
from sdpipe.learn import shipped
from sdpipe.pipeline.tasks import load_audience


def main() -> None:
    """Write ``sdpipe/data/audience.pt`` and ``audience.json``, which are functions of the networks and their config."""
    run = sdpipe.open_run(Path(sys.argv[1]))
    sha256 = shipped.write(run.networks, load_audience(run.layout), PLACE / "audience.pt")
    content = {"sha256": sha256, "sdpipe_version": sdpipe.__version__, "config": plain(run.config)}
    files.write_text(PLACE / "audience.json", json.dumps(content, indent=1) + "\n")
    print(sha256)


if __name__ == "__main__":
    main()
