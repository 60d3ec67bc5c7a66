"""Any bytes as a config or a correlator file: they are read, or refused in words, and never a traceback.

``SDPIPE_FAULTS=full`` tries two thousand of each; by default a tenth of that.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdpipe.config.load import KeyPlaces, load_config, read_config
from sdpipe.config.schema import Cluster, Config, plain, to_yaml
from sdpipe.correlators import child, formats
from sdpipe.correlators.record import Record
from sdpipe.disk.layout import Layout
from sdpipe.errors import ConfigError, UserError
from sdpipe.pipeline import stages
from sdpipe.pipeline.state import State
from tests.faults.conftest import FULL

if TYPE_CHECKING:
    from tests.fixtures import Finished, Outcome

CASES = 2000 if FULL else 200
SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
fuzz = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))

WORDS = [chr(c) for c in b"~[{]'\"?-:#|>*&%"]
WORDS += [
    "null",
    "0",
    "-1",
    "1e999",
    ".nan",
    ".inf",
    "*a",
    "&a",
    "!!binary ",
    "!!timestamp ",
    "!!bool ",
    "!!int ",
    "!!float ",
    "!!python/name:os.x",
    "<<: ",
    "%YAML 9\n",
]
WORDS += [
    "---",
    "...",
    "1_000",
    "0x1F",
    "yes",
    "2026-11-22",
    "1" + 22 * "0",
    "[[[[]]]]",
    "{a: {b: c}}",
    "../../x",
    "1:30",
    "é",
]
WORDS += ["~nosuchuser/x.h5", "1.0e+300", "-1.0e+300", "1.0e-300", "1e8", "99999999999"]
WORDS += ["\t", "\x00", "\ufeff", "\n", "ß" * 200]
MAGIC = ["nan", "inf", "1e400", "-", ",", "\n", "\x93NUMPY", "PK\x03\x04", "\x89HDF", "CDF\x01", "{"]


@st.composite
def mutated(draw: st.DrawFn, originals: list[bytes], words: list[bytes]) -> bytes:
    """Return one of some byte strings after a few cuts, copies, flips and insertions."""
    data = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 6))):
        at, size = draw(st.integers(0, len(data))), draw(st.integers(0, 40))
        kind = draw(st.sampled_from(["cut", "copy", "flip", "insert", "truncate"]))
        if kind == "cut":
            del data[at : at + size]
        elif kind == "copy":
            to = draw(st.integers(0, len(data)))
            data[to:to] = data[at : at + size]
        elif kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[at:at] = draw(st.sampled_from(words) | st.binary(max_size=8))
        elif kind == "truncate":
            del data[len(data) - size :]
    return bytes(data)


LINE = re.compile(r":\d+: ")


@fuzz
@given(data=mutated([p.read_bytes() for p in SHIPPED], [w.encode() for w in WORDS]))
def test_any_yaml_loads_or_is_refused_with_a_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    try:
        config, origin = read_config(path)
    except UserError as error:
        told = error.faults
    else:
        _check_round_trip(config, tmp_path_factory.getbasetemp() / "resolved.yaml")
        told = _refused_before_work(config, origin, tmp_path_factory.getbasetemp() / "run")
    for fault in told:
        assert fault.startswith(str(path)), fault
        assert LINE.match(fault.removeprefix(str(path))), fault
        assert "\n" not in fault


def leaves(section: Any, *keys: str) -> Iterator[str]:
    """Yield the dotted path of every single value in a config."""
    if not isinstance(section, dict):
        yield ".".join(keys)
        return
    for key, value in section.items():
        yield from leaves(value, *keys, key)


CONFIG = SHIPPED[0].with_name("quickstart.yaml")
PEAKS = "targets.peaks={kind: peaks, amplitudes: [0.5, 0.25], masses: [0.7, 1.4]}"
KEYS = sorted(leaves(plain(load_config(CONFIG, [PEAKS]))))


@fuzz
@given(
    key=st.sampled_from(KEYS),
    value=st.floats() | st.integers() | st.sampled_from(["~nosuchuser/x", "[0]"]),
    data=st.data(),
)
def test_any_number_at_any_key_is_computed_with_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: float | str, data: st.DataObject
) -> None:
    wrapped = data.draw(st.sampled_from(["{}", "[{}]", "[{}, 1]", "[1, {}]"])).format(value)
    try:
        config, origin = read_config(CONFIG, [PEAKS, f"{key}={wrapped}"])
    except UserError as error:
        told = error.faults
    else:
        told = _refused_before_work(config, origin, tmp_path_factory.getbasetemp() / "run")
    assert all(re.match(rf"command line: |{re.escape(str(CONFIG))}:\d+: ", fault) for fault in told)


def _refused_before_work(config: Config, origin: KeyPlaces, root: Path) -> Sequence[str]:
    """Return what a dry run finds wrong with a config that loads, but for sections of jobqueue.yaml; nothing raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = State(config.model_copy(update={"cluster": Cluster()}), Layout(root))
        try:
            state.inputs.check(targets=True)
        except ConfigError as error:
            return origin.describe(error.places)
        assert stages.plan(state, stages.wanted(config))
    return ()


def _check_round_trip(config: Config, path: Path) -> None:
    path.write_text(to_yaml(config), encoding="utf-8")
    again = load_config(path)
    assert again == config
    if config.noise.kind == "synthetic":
        made = [State(c, Layout(path)).identities.audience for c in (again, config)]
        assert made[0] == made[1]


def good_files() -> dict[str, bytes]:
    """Return a good correlator file of every format that needs no further package."""
    rng = np.random.default_rng(5)
    values = np.exp(-0.4 * np.arange(8)) * (1 + 0.01 * rng.standard_normal((12, 8)))
    files: dict[str, bytes] = {}
    files["csv"] = "\n".join(["cfg,t,C"] + [f"{i},{t},{values[i, t]}" for i in range(12) for t in range(8)]).encode()
    files["txt"] = files["csv"].replace(b",", b" ").replace(b"cfg", b"# cfg")
    for ending, save in (("npy", lambda f: np.save(f, values)), ("npz", lambda f: np.savez(f, C=values))):
        buffer = io.BytesIO()
        save(buffer)
        files[ending] = buffer.getvalue()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["a/C"] = values
        file["b/mean"], file["b/cov"] = values.mean(axis=0), np.cov(values.T)
    files["h5"] = buffer.getvalue()
    return files


GOOD = good_files()


def test_the_good_files_are_read(tmp_path: Path) -> None:
    for ending, data in GOOD.items():
        path = tmp_path / f"a.{ending}"
        path.write_bytes(data)
        assert isinstance(formats.parse(formats.snapshot(path), "a/C" if ending == "h5" else None), Record)


MOST = 200_000_000
"""Bytes that a refused file takes at most."""


def memory(kind: str) -> int:
    """Return the bytes that this process takes, VmRSS, or has taken at most since its peak was reset, VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def test_any_bytes_as_a_correlator_are_read_or_refused_in_little_memory(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    endings, peaks = [*GOOD, "nc", "json", "json.gz"], [0]
    for ending, content in itertools.product(endings, (b"", GOOD["h5"])):  # libraries are brought in before
        path = tmp_path / f"a.{ending}"
        path.write_bytes(content)
        with suppress(UserError):
            child.read(formats.snapshot(path))

    @fuzz
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        ending = data.draw(st.sampled_from(endings))
        originals = [GOOD[ending]] if ending in GOOD else list(GOOD.values())
        words = [w.encode() for w in MAGIC]
        path = tmp_path / f"fuzz.{ending}"
        path.write_bytes(data.draw(mutated(originals, words) | st.binary(max_size=400)))
        dataset = data.draw(st.sampled_from([None, "a/C", "b", "C", "a/../b", "", "/"]))
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                record = child.read(formats.snapshot(path), dataset)
            except UserError as error:
                told = error.faults
            else:
                values = record.samples if record.samples is not None else record.mean
                assert np.isfinite(np.asarray(values, float)).all()
                return
        peaks.append(memory("VmHWM") - before)
        assert peaks[-1] <= MOST
        assert told
        assert all("\n" not in fault and str(path) in fault for fault in told), told

    check()
    record_property("MB of the refused file that took most", max(peaks) / 1e6)


def test_a_command_on_bad_bytes_is_exit_status_2(
    cli: Callable[..., Outcome], finished: Finished, tmp_path: Path
) -> None:
    """The same through the command line, once for each format."""
    for ending in (*GOOD, "nc", "json", "bin"):
        path = tmp_path / f"bad.{ending}"
        path.write_bytes(b"\x00\xff\x89HDF" * 9)
        fault = cli("run", finished.root, f"targets.bad={{kind: correlator, path: {path}}}", "--dry-run").fault
        assert str(path) in fault
