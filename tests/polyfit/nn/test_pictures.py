"""Histograms of inputs, and pictures of learned functions: what is drawn is what the layer computes."""

from __future__ import annotations

import copy
import math
import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._C._functorch import is_functorch_wrapped_tensor

from polyfit.nn import Polynomial, PolynomialKAN
from polyfit.nn.histogram import Histogram

# --- histograms ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize(("groups", "shape"), [(1, (500,)), (1, ()), (1, (0, 3)), (3, (70, 6)), (6, (4, 6, 5, 3))])
def test_counts_against_numpy(dtype, groups, shape, monkeypatch):
    monkeypatch.setattr("polyfit.nn.histogram._CHUNK", 64)
    histogram = Histogram(-1.5, 2.5, 8, groups)
    # Multiples of 1/8: edges of bins are met exactly.
    batches = [(torch.randn(shape, dtype=torch.float64) * 8).round().div(8).to(dtype) for _ in range(3)]
    for x in batches:
        histogram.add(x)
        if x.dim() == 4:
            histogram.add(x.to(memory_format=torch.channels_last))
    repeats = 2 if len(shape) == 4 else 1
    for group in range(groups):
        values = [x if groups == 1 else x.unflatten(1, (groups, -1))[:, group] for x in batches]
        numbers = torch.cat([value.flatten() for value in values]).double().numpy()
        expected = repeats * np.histogram(numbers, np.linspace(-1.5, 2.5, 9))[0]
        np.testing.assert_array_equal(histogram.counts[group].numpy(), expected)
        assert histogram.below[group] == repeats * (numbers < -1.5).sum()
        assert histogram.above[group] == repeats * (numbers > 2.5).sum()


def test_what_no_bin_holds():
    histogram = Histogram(0.0, 1.0, 2)
    histogram.add(torch.tensor([math.nan, math.inf, -math.inf, 1e30, 1.0, 0.0, -0.0, 0.5]))
    assert histogram.counts.tolist() == [[2, 2]]
    assert (histogram.n_nan.item(), histogram.below.item(), histogram.above.item()) == (1, 1, 2)
    assert histogram.edges.tolist() == [0.0, 0.5, 1.0]
    assert repr(histogram) == "Histogram(8 values, 1 below 0, 2 above 1)"


def test_inputs_are_recorded_while_asked_for():
    layer = Polynomial(3, 2, domain=(-1, 3))
    net = nn.Sequential(layer)
    net(torch.zeros(5, 2))
    assert layer.inputs_seen is None
    with layer.record_inputs(bins=8) as seen:
        net(torch.tensor([[0.1, 2.9], [-2.9, 9.0]]).requires_grad_()).sum().backward()
        net(torch.zeros(3, 2))
    net(torch.zeros(5, 2))
    assert layer.inputs_seen is seen
    assert (seen.lo, seen.hi) == (-3.0, 5.0)
    assert seen.counts.tolist() == [[1, 0, 0, 4, 0, 0, 0, 0], [0, 0, 0, 3, 0, 1, 0, 0]]
    assert seen.above.tolist() == [0, 1]
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.inputs_seen is not None
        assert torch.equal(other.inputs_seen.counts, seen.counts)
        assert list(other.state_dict()) == ["coef"]
    with pytest.raises(ZeroDivisionError), layer.record_inputs():
        raise ZeroDivisionError
    net(torch.zeros(5, 2))
    assert "Histogram(0 values" in repr(layer.inputs_seen)  # the hook is gone
    with pytest.raises(ValueError, match="bins=0 is too small"), layer.record_inputs(bins=0):
        pass


@pytest.mark.parametrize("channel_dim", [1, -1])
def test_inputs_under_transforms_are_recorded(channel_dim):
    layer = Polynomial(3, 4, channel_dim=channel_dim)
    x = torch.randn(5, 2, 3, 4, 4)
    with layer.record_inputs(bins=8) as expected:
        for example in x.flatten(0, 1):
            layer(example)

    def loss(example: torch.Tensor) -> torch.Tensor:
        return layer(example).sum()

    examples = x.flatten(0, 1)
    calls = {
        "vmap": lambda: torch.vmap(layer, in_dims=2)(examples.movedim(0, 2)),
        "vmap of vmap": lambda: torch.vmap(torch.vmap(layer, in_dims=1))(x.movedim(1, 2)),
        "gradients of examples": lambda: torch.vmap(torch.func.grad(loss), in_dims=2)(examples.movedim(0, 2)),
        "gradients": lambda: [torch.func.grad(loss)(example) for example in examples],
    }
    for name, call in calls.items():
        with layer.record_inputs(bins=8) as seen:
            call()
        assert torch.equal(seen.counts, expected.counts), name
        assert torch.equal(seen.above, expected.above), name
        assert not is_functorch_wrapped_tensor(seen.counts)


def test_exports_and_meta_tensors_are_not_recorded():
    layer = Polynomial(3, 4)
    x = torch.randn(6, 4)
    with layer.record_inputs() as seen:
        program = torch.export.export(layer, (x,))
        copy.deepcopy(layer).to("meta")(x.to("meta"))
        assert repr(seen).startswith("Histogram(0 values")
        layer(x)
    assert repr(seen).startswith("Histogram(24 values")
    torch.testing.assert_close(program.module()(x), layer(x))


# --- pictures ---


def heights(line: Any) -> np.ndarray:
    return np.asarray(line.get_ydata())


def drawn(layer: Any) -> Any:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize("outside", ["linear", "clamp", "extend"])
def test_a_picture_of_one_polynomial(outside):
    pytest.importorskip("matplotlib")
    layer = drawn(Polynomial(4, domain=(-4, 4), init="silu", outside=outside))
    (axes,) = layer.plot().axes
    start, curve = axes.lines
    x = torch.from_numpy(np.asarray(curve.get_xdata()))
    assert (x[0], x[-1]) == (-8.0, 8.0)
    np.testing.assert_allclose(heights(curve), layer.double()(x).detach().numpy(), rtol=1e-12, atol=1e-12)
    fresh = Polynomial(4, domain=(-4, 4), init="silu", outside=outside, dtype=torch.float64)
    np.testing.assert_allclose(heights(start), fresh(x).detach().numpy(), rtol=1e-12, atol=1e-12)
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["at the start (silu)", "learned"]
    lo, hi = axes.get_ylim()
    assert lo < np.min(heights(curve))
    assert np.max(heights(curve)) < hi


def test_a_picture_of_many_channels_shows_some_and_those_asked_for():
    pytest.importorskip("matplotlib")
    layer = drawn(Polynomial(3, 64))
    panels = layer.plot().axes
    assert len(panels) == 12
    assert [panels[i].get_title() for i in (0, 1, 11)] == ["channel 0", "channel 5", "channel 58"]
    with layer.record_inputs():
        layer(torch.randn(50, 64))
    first, second = layer.plot(groups=[63, 2]).axes
    x = torch.from_numpy(np.asarray(first.lines[1].get_xdata()))
    values = layer.double()(x[:, None].expand(-1, 64)).detach()
    for axes, group in ((first, 63), (second, 2)):
        np.testing.assert_allclose(heights(axes.lines[1]), values[:, group], rtol=1e-12, atol=1e-12)
        steps = axes.patches[-1].get_data().values  # pyright: ignore[reportAttributeAccessIssue]
        counts = layer.inputs_seen.counts[group].double()  # pyright: ignore[reportOptionalMemberAccess]
        np.testing.assert_allclose(steps, 0.2 * counts / counts.max())
    grouped = Polynomial(3, 8, num_groups=2)
    assert [axes.get_title() for axes in grouped.plot().axes] == ["group 0", "group 1"]
    for groups, message in (([64], "groups has 64; the layer has the groups 0 to 63"), ([], "groups is empty")):
        with pytest.raises(ValueError, match=message):
            layer.plot(groups=groups)


@pytest.mark.parametrize("squash", ["tanh", None])
def test_a_picture_of_a_kan_shows_the_edges_that_vary_most(squash):
    pytest.importorskip("matplotlib")
    layer = drawn(PolynomialKAN(5, 4, 3, squash=squash)).double()
    panels = layer.plot(edges=6).axes
    assert len(panels) == 6
    x = torch.from_numpy(np.asarray(panels[0].lines[1].get_xdata()))
    # Each edge by the layer itself: one input varies, all others are held.
    spreads = {}
    curves = {}
    for i in range(5):
        inputs = torch.zeros(len(x), 5, dtype=torch.float64)
        inputs[:, i] = x
        values = layer(inputs).detach()
        values -= values.mean(0)
        for o in range(4):
            curves[f"input {i} to output {o}"] = values[:, o]
            spreads[f"input {i} to output {o}"] = float(values[:, o].square().mean())
    largest = sorted(spreads, key=spreads.__getitem__, reverse=True)
    assert [axes.get_title() for axes in panels] == largest[:6]
    for axes in panels:
        np.testing.assert_allclose(heights(axes.lines[1]), curves[axes.get_title()], rtol=1e-9, atol=1e-12)
    assert len(layer.plot(edges=100).axes) == 20
    with pytest.raises(ValueError, match="edges=0 is too small"):
        layer.plot(edges=0)


def test_pictures_of_damaged_layers():
    pytest.importorskip("matplotlib")
    layer = Polynomial(3, 2, dtype=torch.float16)
    with torch.no_grad():
        layer.coef[0] = math.nan
    assert len(layer.plot().axes) == 2
    with torch.no_grad():
        layer.coef.zero_()
    assert len(layer.plot().axes) == 2


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for layer in (Polynomial(3), PolynomialKAN(2, 2, 2)):
        with pytest.raises(ImportError, match=r"fused-polyfit\[cli\]"):
            layer.plot()
