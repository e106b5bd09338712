"""Polynomial regression as a model for a training loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from polyfit import _checks, bases, formula, losses
from polyfit.functional import polyval
from polyfit.least_squares.fit import fit as least_squares_fit
from polyfit.least_squares.result import Fit
from polyfit.nn.criterion import PolynomialLoss
from polyfit.nn.state import CoefficientModule


class PolynomialRegression(CoefficientModule):
    r"""A polynomial of x as a model, with its loss in one pass over the data.

    .. math:: p(x) = \sum_{k=0}^{d} c_k \, P_k(t(x))

    ``model(x)`` is p(x). ``model.loss(x, y)``, or ``model(x, y)``, is the loss: the same numbers as a criterion of
    model(x), with the value and the gradient from one pass. Under DistributedDataParallel, torch.utils.checkpoint or
    torch.compile call the wrapped module, ``ddp(x, y)``: they see what goes through forward.

    Descent needs fewer steps in Chebyshev polynomials on the range of the data than in powers of x: pass
    basis="chebyshev" and domain=(lo, hi) unless the coefficients of powers are what is wanted. Where the loss is the
    squared error, `polyfit.fit` gives the optimum at once.

    Args:
        degree: d, at least 0.
        num_series: None for one polynomial; S for S polynomials, with samples (N,), shared by all, or (S, N).
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x.
        loss: a name or an object of polyfit.losses, or a function of predictions and targets.
        reduction: "mean" (weighted) or "sum", over all samples of all series.
        impl: "auto", "triton", "torch" or "compile", see `polyfit.polynomial_loss`.
        device: of the parameter.
        dtype: of the parameter; that of x and y.

    Attributes:
        coef: (degree + 1,), or (num_series, degree + 1), lowest degree first; initially zero.
        criterion: the `PolynomialLoss`.

    Raises:
        TypeError: tensors whose dtypes differ, or that are not floating-point; a degree that is not an int.
        ValueError: shapes that do not fit, an unknown name, a domain with lo >= hi.

    >>> import torch, polyfit
    >>> x = torch.linspace(-3, 3, 200)
    >>> model = polyfit.nn.PolynomialRegression(5, basis="chebyshev", domain=(-3, 3))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    >>> for _ in range(200):
    ...     optimizer.zero_grad()
    ...     loss = model.loss(x, x.sin())
    ...     loss.backward()
    ...     optimizer.step()
    >>> bool((model(x) - x.sin()).abs().max() < 0.02)
    True
    """

    def __init__(
        self,
        degree: int,
        *,
        num_series: int | None = None,
        basis: str = "power",
        domain: Sequence[float] | None = None,
        loss: str | losses.Loss | formula.Pointwise = "mse",
        reduction: str = "mean",
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.degree = _checks.check_count("degree", degree, 0)
        self.num_series = None if num_series is None else _checks.check_count("num_series", num_series, 1)
        _checks.check_choice("reduction", reduction, ("mean", "sum"))
        self.criterion = PolynomialLoss(loss, reduction=reduction, basis=basis, domain=domain, impl=impl)
        batch = () if self.num_series is None else (self.num_series,)
        self.coef = nn.Parameter(torch.empty((*batch, self.degree + 1), device=device, dtype=dtype))
        self.reset_parameters()

    @property
    def basis(self) -> str:
        """The basis of the coefficients."""
        return self.criterion.basis

    @property
    def domain(self) -> bases.Interval | None:
        """The interval that is mapped onto the window of the basis; None for t = x."""
        return self.criterion.domain

    def reset_parameters(self) -> None:
        """Set all coefficients to zero. The losses of polyfit but "cauchy" are convex, and need no other start."""
        with torch.no_grad():
            self.coef.zero_()

    def forward(self, x: Tensor, y: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """p(x); with targets y the loss, see `loss`."""
        if y is not None:
            return self.criterion(x, y, self.coef, weight)
        if weight is not None:
            raise ValueError("weight is of a loss, and y is not given; pass y, or leave weight out")
        return polyval(x, self.coef, basis=self.basis, domain=self.domain, impl=self.criterion.impl)

    def loss(self, x: Tensor, y: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss on data, reduced; the gradient comes from the same pass.

        Args:
            x: samples, (N,), of any shape with one series; with num_series (N,), shared, or (num_series, N).
            y: targets, likewise.
            weight: of each sample, 1/sigma**2, in the shape of y; None for 1.
        """
        return self(x, y, weight)

    # --- fits ---

    def reset_from_fit(self, fit: Fit) -> None:
        """Set the coefficients of all series to those of a fit, in the basis and domain of the model.

        They are converted with more digits than float64 and rounded once. A fit of a lower degree is filled with zeros.

        Raises:
            TypeError: what is passed is not a `polyfit.Fit`.
            ValueError: the degree of the fit is above that of the model.

        Warns:
            FitWarning: the coefficients overflow the dtype of the model, or cancel when they are evaluated in it.

        >>> import torch, polyfit
        >>> x = torch.linspace(0, 10, 21)
        >>> model = PolynomialRegression(2)  # powers of x
        >>> model.reset_from_fit(polyfit.fit(x, 1 + x**2, degree=2))
        >>> torch.allclose(model.coef, torch.tensor([1.0, 0.0, 1.0]), atol=1e-4)
        True
        """
        if not isinstance(fit, Fit):
            raise TypeError(f"fit is {type(fit).__name__}; pass what polyfit.fit returns")
        if fit.degree > self.degree:
            raise ValueError(
                f"fit has degree {fit.degree} and the model {self.degree}; fit that degree, or make the model with"
                f" degree={fit.degree}"
            )
        coef = fit.in_basis(self.basis, self.domain).as_arguments(self.coef.dtype)["coef"]
        with torch.no_grad():
            self.coef.zero_()
            self.coef[..., : len(coef)] = coef

    def to_fit(
        self,
        x: ArrayLike | Tensor,
        y: ArrayLike | Tensor,
        weight: ArrayLike | Tensor | None = None,
        *,
        series: int | None = None,
    ) -> Fit:
        """The polynomial of the model as a `polyfit.Fit`, with the residuals that it has on data.

        Its coefficients count as fixed: `Fit.rss`, `Fit.r_squared` and `Fit.residual_std` are those of this polynomial
        on these data, `Fit.rank` is 0, and standard errors are 0, since nothing is estimated. `polyfit.fit(x, y,
        degree)` gives the optimum for the squared error, with its standard errors.

        Args:
            x: sample locations, (N,), as for `polyfit.fit`.
            y: sample values, (N,), likewise.
            weight: of each sample, (N,), likewise.
            series: the index of the polynomial, for a model of several series.

        Raises:
            ValueError: series is missing, or not there; a loss whose predictions are not on the scale of y (a logit, a
                logarithm); coefficients that are not finite; data that `polyfit.fit` refuses.

        >>> import torch, polyfit
        >>> x = torch.linspace(0, 1, 11)
        >>> model = PolynomialRegression(1)
        >>> fit = model.to_fit(x, x)
        >>> fit.coef.tolist(), round(fit.rss, 4)
        ([0.0, 0.0], 3.85)
        """
        given = self.criterion.loss
        loss = losses.resolve(given) if isinstance(given, str) else given
        if isinstance(loss, losses.Loss) and loss.inverse_link != "p":
            raise ValueError(
                f"loss={given!r} has predictions that are not on the scale of y (y is compared with"
                f" {loss.inverse_link}); a Fit has residuals y - p"
            )
        coef = self._row(series).detach().double()
        if not bool(coef.isfinite().all()):
            raise ValueError("the coefficients of the model are not all finite; train it again with a smaller rate")
        return least_squares_fit(
            x,
            y,
            self.degree,
            weight=weight,
            basis=self.basis,
            domain=self.domain,
            fixed=dict(enumerate(coef.tolist())),
        )

    def _row(self, series: int | None) -> Tensor:
        """The coefficients of one series."""
        if self.num_series is None:
            if series is not None:
                raise ValueError(f"series={series!r} is given, and the model has one polynomial; leave it out")
            return self.coef
        if series is None:
            raise ValueError(f"the model has {self.num_series} series; pass series=, the index of one")
        return self.coef[_checks.check_count("series", series, 0, self.num_series - 1)]

    def no_weight_decay(self) -> set[str]:
        """The names of the parameters that an optimizer must not decay, in the form of timm: all.

        Decay would draw the constant to zero too. `polyfit.fit` has ridge, which leaves it.
        """
        return {"coef"}

    def _meaning(self) -> dict[str, Any]:
        return {"basis": self.basis, "domain": self.domain}

    def _sizes(self, shape: torch.Size) -> str:
        if len(shape) not in {1, 2}:
            return f"shape {tuple(shape)}"
        return f"degree {shape[-1] - 1} with num_series={None if len(shape) == 1 else shape[0]}"

    def extra_repr(self) -> str:
        """The sizes; the rest is in the criterion below."""
        return f"degree={self.degree}" + ("" if self.num_series is None else f", num_series={self.num_series}")
