import math

import pytest
import torch
from torch import Tensor

pytest.importorskip("sklearn", reason="needs the extra examples")
pytest.importorskip("statsmodels", reason="needs the extra examples")

from polyfit.examples import regression


def negative_log_likelihood(name: str, features: Tensor, y: Tensor, coef: Tensor) -> Tensor:
    """Of the plain formula, without what does not depend on coef."""
    p = features @ coef
    return (torch.logaddexp(p, torch.zeros_like(p)) - y * p if name == "malignant by radius" else p.exp() - y * p).sum()


def test_logistic_and_poisson_coefficients_are_those_of_scikit_learn_and_statsmodels() -> None:
    """In units of the standard error, the loss grows by s**2 / 2 at a distance s from its minimum.

    Descent in float64 ends, at the latest, where that is a rounding of the loss: sums of 1e4 for 20190 samples, whose
    roundings are some 1e-12, and s is 1e-6. The bound has a factor of ten for this.
    """
    for programs in regression.main().values():
        ours, unit = programs["polyfit"], programs["statsmodels"].std_err
        assert unit is not None
        assert ours.std_err is not None
        for other in programs.values():
            assert ((ours.coef - other.coef) / unit).abs().max() < 1e-5
        # They are those of the Hessian, which changes by a share of s where the coefficients do.
        assert ((ours.std_err - unit) / unit).abs().max() < 1e-5


@pytest.mark.parametrize(("loss", "name"), [("bce_with_logits", "malignant by radius"), ("poisson_nll", "visits")])
def test_the_estimate_is_the_minimum_of_the_plain_formula(loss: str, name: str) -> None:
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)
    mean = torch.sigmoid(3 * x) if loss == "bce_with_logits" else (1 + x).exp()
    y = torch.bernoulli(mean) if loss == "bce_with_logits" else torch.poisson(mean)
    estimate = regression.fit(x, y, 3, loss)
    features = torch.tensor(regression.chebyshev(x.numpy(), 3))
    coef = estimate.coef.requires_grad_()
    (gradient,) = torch.autograd.grad(negative_log_likelihood(name, features, y, coef), coef)
    hessian = torch.autograd.functional.hessian(
        lambda coef: negative_log_likelihood(name, features, y, coef), estimate.coef.detach()
    )
    assert isinstance(hessian, Tensor)
    distance = torch.linalg.solve(hessian, gradient)
    assert estimate.std_err is not None
    assert (distance / estimate.std_err).abs().max() < 1e-5
    assert math.isclose(estimate.std_err[0].item(), hessian.inverse()[0, 0].sqrt().item(), rel_tol=1e-9)
