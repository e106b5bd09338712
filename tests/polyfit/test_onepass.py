"""The chunked pass where chunks and blocks begin and end, and the Gram matrix."""

import numpy as np
import pytest
import torch
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval

from polyfit import bases, onepass
from polyfit.losses import MSE

F64 = torch.float64


@pytest.mark.parametrize("basis", ["power", "legendre"])
@pytest.mark.parametrize("shared", ["x", "y", "x and y", "nothing"])
@pytest.mark.parametrize("n_series", [1, 2, 5])
@pytest.mark.parametrize("n_samples", [1, 3, 4, 7, 8, 9, 23, 24, 25, 50])
@pytest.mark.parametrize("keep", [False, True])
def test_every_border_of_chunks(keep, n_samples, n_series, shared, basis, monkeypatch, small_chunks):
    monkeypatch.setattr(onepass, "_KEPT", 60 if keep else 0)
    x = torch.randn(1 if "x" in shared else n_series, n_samples, dtype=F64).requires_grad_()
    y = torch.randn(1 if "y" in shared else n_series, n_samples, dtype=F64).requires_grad_()
    weight = torch.rand(n_series, n_samples, dtype=F64).requires_grad_()
    coef = torch.randn(n_series, 3, dtype=F64).requires_grad_()
    upstream = torch.linspace(-1, 2, n_series, dtype=F64)
    mapping = bases.affine_map((-2.0, 3.0), bases.BASES[basis], F64)

    losses = plain_loss(x, y, coef, weight, "sum", per_series=True, domain=(-2.0, 3.0), basis=basis)
    to_x, to_y, to_coef, to_weight = torch.autograd.grad(losses, (x, y, coef, weight), upstream)
    data = (x.detach(), y.detach(), weight.detach())
    bound = onepass.Objective(*data, n_series, 2, mapping, basis, MSE(), keep=keep)
    for _ in range(2):  # a second call must not see anything of the first
        sums = bound(coef.detach(), upstream, want_x=True, want_y=True, want_weight=True)
        expected = (losses, weight.sum(1), to_coef, to_x, to_y, to_weight)
        for ours, theirs in zip(sums, expected, strict=True):
            assert ours is not None
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)

    values = plain_polyval(x, coef, (-2.0, 3.0), basis).expand(n_series, -1)
    torch.testing.assert_close(
        onepass.evaluate(x.detach(), coef.detach(), mapping, basis), values.detach(), rtol=1e-12, atol=1e-12
    )
    grad = torch.randn(n_series, n_samples, dtype=F64)
    expected = torch.autograd.grad(values, (x, coef), grad)
    ours = onepass.evaluate_backward(grad, x.detach(), coef.detach(), mapping, basis, want_x=True, want_coef=True)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_series", [1, 3])
def test_gram_is_numpys(n_series, weighted, small, request):
    if small:
        request.getfixturevalue("small_chunks")
    x = torch.rand(n_series, 53, dtype=F64) * 4 + 1
    weight = torch.rand(n_series, 53, dtype=F64) if weighted else None
    gram = onepass.gram(x, weight, 4, bases.affine_map((1.0, 5.0), bases.POWER, F64), "power")
    for series in range(n_series):
        powers = np.vander((x[series].numpy() - 3.0) / 2.0, 5, increasing=True)
        weights = np.ones(53) if weight is None else weight[series].numpy()
        np.testing.assert_allclose(gram[series], powers.T @ (weights[:, None] * powers), rtol=1e-13, atol=1e-13)


def test_gram_of_no_samples_is_zero():
    assert onepass.gram(torch.empty(1, 0), None, 2, None, "power").tolist() == [[[0.0] * 3] * 3]
