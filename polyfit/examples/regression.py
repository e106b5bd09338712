"""Polynomial logistic and Poisson regression by the losses of polyfit, compared with scikit-learn and statsmodels.

Run by ``python -m polyfit.examples.regression``. The data come with those packages:

- breast cancer (scikit-learn): the probability that a tumour is malignant, by the mean radius of its cells, for 569
  tumours;
- the RAND health insurance experiment (statsmodels): the visits to a doctor in a year, by an index of chronic diseases,
  for 20190 years of persons.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from polyfit._optional import import_optional
from polyfit.examples import _arguments
from polyfit.nn import PolynomialRegression


class Estimate(NamedTuple):
    """Coefficients of the Chebyshev polynomials T_0 .. T_d on the range of x, and their standard errors, (d + 1,).

    scikit-learn gives no standard errors.
    """

    coef: Tensor
    std_err: Tensor | None


def fit(x: Tensor, y: Tensor, degree: int, loss: str) -> Estimate:
    """Maximum likelihood: the sum of the losses is the negative logarithm of the likelihood, up to a constant."""
    domain = (x.min().item(), x.max().item())
    model = PolynomialRegression(
        degree, basis="chebyshev", domain=domain, loss=loss, reduction="sum", dtype=torch.float64
    )
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=200, tolerance_grad=1e-7, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    coef = model.coef.detach()
    information = torch.func.hessian(lambda coef: model.criterion(x, y, coef))(coef)
    return Estimate(coef, information.inverse().diagonal().sqrt())


def chebyshev(x: np.ndarray, degree: int) -> np.ndarray:
    """T_0 .. T_d at x as a matrix (N, d + 1): the features for the other programs."""
    return np.polynomial.chebyshev.chebvander((2 * x - x.min() - x.max()) / (x.max() - x.min()), degree)


def malignant_by_radius(degree: int = 2) -> dict[str, Estimate]:
    """Logistic regression, by program."""
    datasets, linear_model = _import("sklearn.datasets"), _import("sklearn.linear_model")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    x, y = x[:, 0], 1.0 - y  # in the data 0 is malignant
    features = chebyshev(x, degree)
    # The features have a constant among them, and C is the inverse of a penalty.
    sklearn = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, solver="newton-cholesky")
    return {
        "polyfit": fit(torch.tensor(x), torch.tensor(y), degree, "bce_with_logits"),
        "scikit-learn": Estimate(torch.tensor(sklearn.fit(features, y).coef_[0]), None),
        "statsmodels": _statsmodels(features, y, "Binomial"),
    }


def visits_by_diseases(degree: int = 3) -> dict[str, Estimate]:
    """Poisson regression, by program."""
    linear_model = _import("sklearn.linear_model")
    table = _import("statsmodels.api").datasets.randhie.load_pandas().data
    x, y = table["disea"].to_numpy(float), table["mdvis"].to_numpy(float)
    features = chebyshev(x, degree)
    sklearn = linear_model.PoissonRegressor(alpha=0.0, fit_intercept=False, tol=1e-10, solver="newton-cholesky")
    return {
        "polyfit": fit(torch.tensor(x), torch.tensor(y), degree, "poisson_nll"),
        "scikit-learn": Estimate(torch.tensor(sklearn.fit(features, y).coef_), None),
        "statsmodels": _statsmodels(features, y, "Poisson"),
    }


def _statsmodels(features: np.ndarray, y: np.ndarray, family: str) -> Estimate:
    sm = _import("statsmodels.api")
    result = sm.GLM(y, features, family=getattr(sm.families, family)()).fit(tol=1e-12)
    return Estimate(torch.tensor(result.params), torch.tensor(result.bse))


def _import(module: str) -> Any:
    return import_optional(module, "this example", "examples")


def main() -> dict[str, dict[str, Estimate]]:
    """Run both, and print coefficients and standard errors."""
    results = {"malignant by radius": malignant_by_radius(), "visits by diseases": visits_by_diseases()}
    for name, programs in results.items():
        print(name)
        for program, (coef, std_err) in programs.items():
            print(f"  {program:14}coefficients   ", *(f"{value:10.6f}" for value in coef.tolist()))
            if std_err is not None:
                print(f"  {'':14}standard errors", *(f"{value:10.6f}" for value in std_err.tolist()))
    return results


if __name__ == "__main__":
    _arguments.parser(__doc__).parse_args()
    main()
