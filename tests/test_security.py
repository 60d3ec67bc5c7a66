"""What docs/security.md promises: nobody gets in, nothing gets out of the run directory, no secret is left."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import sdpipe
from sdpipe.config.load import load_config
from sdpipe.disk.receipts import sha256
from sdpipe.errors import DamageError, UserError
from sdpipe.learn import trained
from sdpipe.workers import slurm

if TYPE_CHECKING:
    from tests.fixtures import Finished


class Bomb:
    """Runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Path]]:
        return Path.touch, (self.path,)


def test_certificates_of_a_pool_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    security = slurm.certificates(tmp_path)
    files = list(tmp_path.iterdir())
    assert {Path(security.tls_worker_key), Path(security.tls_worker_cert), Path(security.tls_ca_file)} == set(files)
    assert {stat.S_IMODE(f.stat().st_mode) for f in files} == {0o600}
    assert security.require_encryption


def test_no_secret_is_left_in_a_run(finished: Finished) -> None:
    for path in (p for p in finished.root.rglob("*") if p.is_file()):
        assert b"PRIVATE KEY" not in path.read_bytes(), path
    assert not (finished.root / ".sdpipe" / "tls").exists()


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    sign, path = tmp_path / "sign", tmp_path / "a.npz"
    pickled = np.array([Bomb(sign)], object)
    for name in ("about", "weights"):
        with path.open("wb") as file:
            np.savez(file, **{"about": np.array(b'{"weights": {"array": "weights"}}'), name: pickled})
        with pytest.raises(DamageError, match="not a readable checkpoint"):
            trained.load(path, sha256(path))
    assert not sign.exists()


def test_a_config_runs_no_code(tmp_path: Path) -> None:
    sign, path = tmp_path / "sign", tmp_path / "a.yaml"
    path.write_text(f"name: !!python/object/apply:os.system ['touch {sign}']\n")
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(path)
    assert not sign.exists()


def test_nothing_reads_a_correlator_file_but_the_process_with_little_memory() -> None:
    package = Path(sdpipe.__file__).parent
    callers = {p.name for p in package.rglob("*.py") if "parse_here(" in p.read_text(encoding="utf-8")}
    assert callers == {"formats.py", "child.py"}


@pytest.mark.parametrize(
    "name",
    [
        "../out",
        "/tmp/out",
        "a/b",
        "..",
        ".hidden",
        "a\\b",
        "a\0b",
        "zarr.json",
        "a.partial",
        "a.replaced",
        "a.zarr",
        "a\n",
    ],
)
@pytest.mark.parametrize("key", ["name", "targets", "ensembles"])
def test_names_stay_in_the_run_directory(tiny_config: Path, name: str, key: str) -> None:
    quoted = '"' + name.replace("\\", "\\\\").replace("\0", "\\0").replace("\n", "\\n") + '"'
    entry = {
        "name": f"name={quoted}",
        "targets": f"targets={{{quoted}: {{kind: o3}}}}",
        "ensembles": f"ensembles={{{quoted}: {{Nb: 16, Nrho: 400, network: arcS}}}}",
    }[key]
    with pytest.raises(UserError, match=key):
        load_config(tiny_config, [entry])
