"""The networks, several replicas side by side as one batched model: arc, of two convolutions, and mlp, of none.

Every array carries the replica as its first axis and every layer is one batched matrix product, so
replicas share the arithmetic and nothing else: replica r of a stack computes what it computes alone.

Arrays are tensors of PyTorch where networks are trained, and of NumPy where they predict, which imports no PyTorch.
"""

from __future__ import annotations

from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

FEATURE_MAPS: dict[str, tuple[int, int]] = {"arcS": (16, 32), "arcM": (32, 64), "arcL": (64, 128)}
"""Feature maps of the two convolutions (kernel 3, stride 2, padding 1), arXiv:2307.00808, Tab. 1."""

LAYERS: dict[str, tuple[int, ...]] = {
    "mlpXXS": (32, 32),
    "mlpXS": (64, 64),
    "mlpS": (128, 128),
    "mlpM": (256,) * 3,
    "mlpL": (512,) * 3,
}
"""Widths of the hidden layers of networks without convolutions."""

HIDDEN = 256
NEGATIVE_SLOPE = 0.2
INITIAL_SCALE = 0.05
LARGEST_LOG = 6.0
"""The logarithm of an error that a network gives lies within this of that of its unit."""

Parameters = dict[str, "Tensor"]
Weights = dict[str, NDArray[np.float32]]
"""The parameters of a trained network."""
Values = TypeVar("Values", "Tensor", NDArray)


def _convolved(length: int) -> int:
    return (length - 1) // 2 + 1


def shapes(network: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter of one replica, the last layer last.

    Convolution weights are (3 c_in, c_out) with the kernel position as the slower row index; the
    flattened maps are ordered (position, map).
    """
    if network in LAYERS:
        widths = (inputs, *LAYERS[network], outputs)
        names = [f"hidden{i + 1}" for i in range(len(widths) - 2)] + ["output"]
        return {
            f"{name}.{part}": (n if part == "weight" else 1, m)
            for name, n, m in zip(names, widths[:-1], widths[1:], strict=True)
            for part in ("weight", "bias")
        }
    first, second = FEATURE_MAPS[network]
    length = _convolved(_convolved(inputs))
    return {
        "conv1.weight": (3, first),
        "conv1.bias": (1, first),
        "conv2.weight": (3 * first, second),
        "conv2.bias": (1, second),
        "dense.weight": (length * second, HIDDEN),
        "dense.bias": (1, HIDDEN),
        "output.weight": (HIDDEN, outputs),
        "output.bias": (1, outputs),
    }


def parameter_count(network: str, inputs: int, outputs: int) -> int:
    """Return the number of trainable parameters of one replica.

    >>> parameter_count("arcS", 32, 47), parameter_count("arcL", 32, 47)
    (79503, 299439)
    """
    return sum(prod(shape) for shape in shapes(network, inputs, outputs).values())


def initialise(network: str, inputs: int, outputs: int, seed: int) -> Parameters:
    """Draw one replica: float64, a function of ``seed`` alone.

    arc: weights N(0, 0.05), biases 0. mlp: weights N(0, 2/n) behind n inputs, so that the size of the signal is kept
    (K. He et al., arXiv:1502.01852), biases and last layer 0.

    >>> initialise("arcS", 16, 47, seed=1)["dense.weight"].shape
    torch.Size([128, 256])
    """
    import torch

    generator = torch.Generator().manual_seed(seed)

    def scale(name: str, rows: int) -> float:
        if name.endswith("bias") or (network in LAYERS and name.startswith("output")):
            return 0.0
        return (2 / rows) ** 0.5 if network in LAYERS else INITIAL_SCALE

    return {
        name: size * torch.randn(shape, generator=generator, dtype=torch.float64)
        if (size := scale(name, shape[0]))
        else torch.zeros(shape, dtype=torch.float64)
        for name, shape in shapes(network, inputs, outputs).items()
    }


def _library(values: Values) -> ModuleType:
    """Return the library that an array is of, NumPy or PyTorch."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


def stack(replicas: list[dict[str, Values]]) -> dict[str, Values]:
    """Stack single replicas along a new first axis."""
    return {name: _library(values).stack([r[name] for r in replicas]) for name, values in replicas[0].items()}


def _affine(p: dict[str, Values], name: str, h: Values) -> Values:
    weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
    if _library(h) is not np:
        return _library(h).baddbmm(bias, h, weight)
    h = h @ weight
    h += bias
    return h


def _rectified(h: Values) -> Values:
    """Return the leaky ReLU of an array, in NumPy in its place."""
    if _library(h) is not np:
        return _library(h).nn.functional.leaky_relu(h, NEGATIVE_SLOPE)
    return np.maximum(h, NEGATIVE_SLOPE * h, out=h)


def _convolve(p: dict[str, Values], name: str, h: Values) -> Values:
    """Convolve (replica, batch, position, map) with kernel 3, stride 2, padding 1."""
    replicas, batch, length, maps = h.shape
    last, joined = 2 * _convolved(length) - 1, _library(h).concatenate
    edge = _library(h).zeros_like(h[:, :, :1])
    padded = joined([edge, h, edge], axis=2)
    taps = joined([padded[:, :, k : k + last : 2] for k in range(3)], axis=-1)
    return _affine(p, name, taps.reshape(replicas, -1, 3 * maps)).reshape(replicas, batch, _convolved(length), -1)


def forward(p: dict[str, Values], x: Values) -> Values:
    """Return the outputs (replica, batch, E) for inputs x (replica, batch, t).

    >>> both = stack([initialise("arcS", 16, 47, seed) for seed in (1, 2)])
    >>> forward({name: values.numpy() for name, values in both.items()}, np.zeros((2, 100, 16))).shape
    (2, 100, 47)
    """
    if "conv1.weight" in p:
        h = _rectified(_convolve(p, "conv1", x[..., None]))
        h = _rectified(_convolve(p, "conv2", h))
        hidden, h = ["dense"], h.reshape(*x.shape[:2], -1)
    else:
        hidden, h = [name.removesuffix(".weight") for name in p if name.startswith("hidden") and "weight" in name], x
    for name in hidden:
        h = _rectified(_affine(p, name, h))
    return _affine(p, "output", h)


def split(outputs: Values) -> tuple[Values, Values]:
    """Return the estimate (..., E) of a network with an error head, and the logarithm of its error, out of (..., 2 E).

    >>> split(np.zeros((1, 2, 8)))[1].shape
    (1, 2, 4)
    """
    half = outputs.shape[-1] // 2
    return outputs[..., :half], LARGEST_LOG * _library(outputs).tanh(outputs[..., half:] / LARGEST_LOG)
