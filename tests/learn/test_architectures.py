"""Networks against PyTorch's own layers and between PyTorch and NumPy, and a stack against its members one by one."""

import math
from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch

from sdpipe.config.schema import NetworkName
from sdpipe.learn import architectures

MAPS = {"arcS": (16, 32), "arcM": (32, 64), "arcL": (64, 128)}


def reference(name: str, p: architectures.Parameters, inputs: int, outputs: int) -> torch.nn.Module:
    """The network of arXiv:2307.00808, Tab. 1, from ``torch.nn`` layers with the weights ``p``."""
    first, second = MAPS[name]
    length = math.ceil(math.ceil(inputs / 2) / 2)
    conv = {"kernel_size": 3, "stride": 2, "padding": 1, "dtype": torch.float64}
    net = torch.nn.Sequential(
        torch.nn.Conv1d(1, first, **conv),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Conv1d(first, second, **conv),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Flatten(),
        torch.nn.Linear(length * second, 256, dtype=torch.float64),
        torch.nn.LeakyReLU(0.2),
        torch.nn.Linear(256, outputs, dtype=torch.float64),
    )
    with torch.no_grad():
        for layer, key, maps in ((net[0], "conv1", 1), (net[2], "conv2", first)):
            layer.weight.copy_(p[f"{key}.weight"].view(3, maps, -1).permute(2, 1, 0))
            layer.bias.copy_(p[f"{key}.bias"][0])
        # Conv1d flattens (map, position), ours (position, map).
        dense = p["dense.weight"].view(length, second, 256).permute(1, 0, 2).reshape(-1, 256)
        net[5].weight.copy_(dense.T)
        net[5].bias.copy_(p["dense.bias"][0])
        net[7].weight.copy_(p["output.weight"].T)
        net[7].bias.copy_(p["output.bias"][0])
    return net


def with_biases(name: str, inputs: int, outputs: int, seed: int) -> architectures.Parameters:
    """Initial parameters with random biases, so that none is left untested."""
    g = torch.Generator().manual_seed(seed)
    p = architectures.initialise(name, inputs, outputs, seed)
    return {k: v if k.endswith("weight") else 0.1 * torch.randn(v.shape, generator=g).double() for k, v in p.items()}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "count"), [("arcS", 79_503), ("arcM", 149_743), ("arcL", 299_439)])
def test_parameter_counts_at_32_inputs_and_47_outputs(name, count):
    assert architectures.parameter_count(name, 32, 47) == count
    drawn = architectures.initialise(name, 32, 47, seed=1)
    assert sum(v.numel() for v in drawn.values()) == count
    module = reference(name, drawn, 32, 47)
    assert sum(v.numel() for v in module.parameters()) == count


@pytest.mark.parametrize("name", list(MAPS))
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3), (5, 1), (16, 12), (31, 47), (32, 47)])
def test_forward_is_that_of_torch_layers_for_any_number_of_times_and_energies(name, inputs, outputs):
    p = with_biases(name, inputs, outputs, seed=3)
    x = draw(7, inputs)
    expected = reference(name, p, inputs, outputs)(x[:, None, :])
    torch.testing.assert_close(
        architectures.forward(architectures.stack([p]), x[None])[0], expected, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", get_args(NetworkName))
def test_arrays_of_numpy_go_the_same_way_as_tensors(name):
    stacked = architectures.stack([with_biases(name, 12, 10, seed) for seed in range(3)])
    stacked["output.weight"] = draw(*stacked["output.weight"].shape)
    x = draw(3, 7, 12)
    by_torch = architectures.split(architectures.forward(stacked, x))
    given = x.numpy().copy()
    by_numpy = architectures.split(architectures.forward({k: v.numpy() for k, v in stacked.items()}, given))
    for ours, theirs in zip(by_numpy, by_torch, strict=True):
        assert isinstance(ours, np.ndarray)
        torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-12, atol=1e-13)
    assert np.array_equal(given, x.numpy())


def test_gradients_are_those_of_torch_layers():
    p = with_biases("arcS", 9, 4, seed=5)
    x, net = draw(6, 9), reference("arcS", p, 9, 4)
    net(x[:, None]).abs().sum().backward()
    stacked = {k: v.requires_grad_() for k, v in architectures.stack([p]).items()}
    architectures.forward(stacked, x[None]).abs().sum().backward()
    torch.testing.assert_close(stacked["output.weight"].grad[0], net[7].weight.grad.T, rtol=1e-11, atol=1e-12)
    first = stacked["conv1.weight"].grad[0].view(3, 1, -1).permute(2, 1, 0)
    torch.testing.assert_close(first, net[0].weight.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", list(MAPS))
def test_a_stack_equals_its_members_one_by_one(name):
    members = [with_biases(name, 12, 5, seed) for seed in range(4)]
    x = draw(4, 9, 12)
    together = architectures.forward(architectures.stack(members), x)
    assert together.shape == (4, 9, 5)
    for i, p in enumerate(members):
        alone = architectures.forward(architectures.stack([p]), x[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-14)
    assert all(not torch.allclose(together[i], together[j]) for i, j in pairwise(range(4)))


def test_members_share_no_gradient():
    members = [with_biases("arcS", 8, 3, seed) for seed in range(3)]
    stacked = {k: v.requires_grad_() for k, v in architectures.stack(members).items()}
    architectures.forward(stacked, draw(3, 5, 8))[1].sum().backward()
    for name, value in stacked.items():
        assert not value.grad[[0, 2]].any(), name
        assert value.grad[1].any(), name


def test_initial_weights_are_normal_with_width_005_and_biases_zero():
    drawn = architectures.initialise("arcL", 32, 47, seed=7)
    for name, value in drawn.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif value.numel() > 1000:
            assert value.std().item() == pytest.approx(0.05, rel=5 / (2 * value.numel()) ** 0.5), name
            assert value.mean().item() == pytest.approx(0, abs=5 * 0.05 / value.numel() ** 0.5), name
    kurtosis = (drawn["dense.weight"] / 0.05).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.1)


def test_initial_weights_are_a_function_of_the_seed():
    torch.manual_seed(0)
    first = architectures.initialise("arcS", 8, 3, seed=1)
    torch.manual_seed(99)
    again, other = architectures.initialise("arcS", 8, 3, seed=1), architectures.initialise("arcS", 8, 3, seed=2)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_config_names_every_architecture() -> None:
    assert get_args(NetworkName) == (*architectures.FEATURE_MAPS, *architectures.LAYERS)
