"""Results as files for a paper: HDF5 or NetCDF with every number, and YAML as HEPData takes it."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
import xarray as xr
import yaml

from sdpipe.disk import files
from sdpipe.errors import UserError
from sdpipe.physics.units import unit_of

FORMATS = (".h5", ".nc", ".yaml")
"""How the name of a file ends: HDF5, NetCDF, or YAML for HEPData."""


def write(result: xr.Dataset, path: str | Path, provenance: Mapping[str, str]) -> Path:
    """Write a budget, a limit, or another result as its path ends, and return the path.

    ``.h5`` holds every variable and coordinate with its units and dimensions as attributes, and ``provenance`` as those
    of the file; any reader of HDF5 opens it. ``.nc`` is the same as NetCDF, which ``xarray.open_dataset`` opens, with
    what the result says of itself as further attributes. ``.yaml`` is a table of HEPData, see :func:`hepdata`. Raises
    UserError for another end of the name.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise UserError(f"{path}: {path.suffix or 'no suffix'} is not allowed; allowed: {', '.join(FORMATS)}")
    if path.suffix == ".yaml":
        files.write_text(path, hepdata(result, provenance))
    else:
        files.write_bytes(path, {".h5": as_hdf5, ".nc": as_netcdf}[path.suffix](result, provenance))
    return path


def as_netcdf(result: xr.Dataset, provenance: Mapping[str, str]) -> bytes:
    """Return the content of the NetCDF file of a result.

    >>> budget = xr.Dataset({"central": ("E", [1.0])}, {"E": [1.5]}, {"flags": ["a", "b"]})
    >>> xr.load_dataset(BytesIO(as_netcdf(budget, {"made_by": "sdpipe"})), engine="h5netcdf").attrs
    {'flags': 'a; b', 'made_by': 'sdpipe'}
    """
    known = {str(key): x for key, x in result.attrs.items() if isinstance(x, str | int | float | list)}  # by NetCDF
    plain = {key: "; ".join(map(str, x)) if isinstance(x, list) else x for key, x in known.items()}
    labelled = result.drop_attrs(deep=False).assign_attrs(plain | dict(provenance)).drop_encoding()
    return bytes(labelled.to_netcdf(engine="h5netcdf"))


def as_hdf5(result: xr.Dataset, provenance: Mapping[str, str]) -> bytes:
    """Return the content of the HDF5 file of a result."""
    import h5py

    buffer = BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs.update(provenance)
        for name, value in {**result.coords, **result.data_vars}.items():
            values = np.asarray(value.values)
            text = values.dtype.kind in "OUS"
            data = file.create_dataset(
                name, data=values.astype(object) if text else values, dtype=h5py.string_dtype() if text else None
            )
            data.attrs["units"] = str(value.attrs.get("units", "1"))
            data.attrs["long_name"] = str(value.attrs.get("long_name", name))
            data.attrs["dims"] = ", ".join(map(str, value.dims))
        for name in result.dims:
            if name in file:
                file[name].make_scale(name)
        for name, value in result.data_vars.items():
            for axis, dim in enumerate(value.dims):
                if dim in result.coords:
                    file[name].dims[axis].attach_scale(file[dim])
    return buffer.getvalue()


def hepdata(result: xr.Dataset, provenance: Mapping[str, str]) -> str:
    """Return a table of HEPData: E, and rho_sigma(E) at each sigma with a symmetric error for each source.

    Where the error is calibrated, it is one error ``total, calibrated`` beside those of the sources, since it is not
    their sum.

    >>> budget = xr.Dataset({"central": (("sigma", "E"), [[1.0]]), "total": (("sigma", "E"), [[0.1]])})
    >>> budget = budget.assign_coords(sigma=[0.4], E=[1.5])
    >>> print(hepdata(budget, {"made by": "sdpipe"}).splitlines()[-1])
        value: 1.0
    """
    unit = unit_of(result)
    dependent = []
    for j, sigma in enumerate(result.sigma.values):
        qualifiers = [{"name": "sigma", "units": unit, "value": float(sigma)}]
        qualifiers += [{"name": key, "value": value} for key, value in provenance.items()]
        values = []
        for k in range(result.sizes["E"]):
            errors = {}
            if "error" in result:
                point = result.error.isel(sigma=j, E=k)
                errors = {str(source): float(point.sel(source=source)) for source in result.source.values}
            for name, label in (("total", "total"), ("calibrated", "total, calibrated")):
                if name in result:
                    errors[label] = float(result[name].isel(sigma=j, E=k))
            listed = [{"symerror": error, "label": label} for label, error in errors.items()]
            values.append({"errors": listed, "value": float(result.central.isel(sigma=j, E=k))})
        header = {"name": "rho_sigma(E)", "units": result.central.attrs.get("units", "1")}
        dependent.append({"header": header, "qualifiers": qualifiers, "values": values})
    energies = {"header": {"name": "E", "units": unit}, "values": [{"value": float(E)} for E in result.E.values]}
    return yaml.safe_dump({"independent_variables": [energies], "dependent_variables": dependent}, sort_keys=False)
