"""The loss of a polynomial on data as a module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from polyfit import _checks, bases, formula, losses
from polyfit.backends.select import IMPLS
from polyfit.functional import polynomial_loss


class PolynomialLoss(nn.Module):
    r"""The loss of a polynomial on data, `polyfit.polynomial_loss`, with its options fixed beforehand.

    .. math:: L = \frac{\sum_n w_n \, l(p(x_n), y_n)}{\sum_n w_n} \;\text{("mean")}, \qquad
              L = \sum_n w_n \, l(p(x_n), y_n) \;\text{("sum")}

    One pass over the data gives the value and all gradients. A criterion of torch takes predictions; this one takes x
    and the coefficients, which may be parameters or the output of a network.

    Args:
        loss: a name or an object of polyfit.losses, or a function of predictions and targets.
        reduction: "mean", "sum" or "none".
        per_series: one loss for each series, and not one over all series.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, mapped onto the window of the basis; None for t = x.
        impl: "auto", "triton", "torch" or "compile", see `polyfit.polynomial_loss`.

    Raises:
        TypeError: a class as loss; a domain that is not a pair of numbers.
        ValueError: an unknown name; a domain with lo >= hi; per_series with reduction="none".

    >>> import torch, polyfit
    >>> criterion = polyfit.nn.PolynomialLoss("huber", domain=(-1, 1))
    >>> criterion
    PolynomialLoss(loss='huber', domain=(-1.0, 1.0))
    >>> x = torch.linspace(-1, 1, 5)
    >>> criterion(x, x**2, torch.tensor([0.0, 1.0, 0.0]))
    tensor(0.3625)
    """

    loss: str | losses.Loss | formula.Pointwise

    def __init__(
        self,
        loss: str | losses.Loss | formula.Pointwise = "mse",
        *,
        reduction: str = "mean",
        per_series: bool = False,
        basis: str = "power",
        domain: Sequence[float] | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        losses.check_object(loss)
        if isinstance(loss, str) or not callable(loss):
            losses.resolve(loss)
        _checks.check_choice("reduction", reduction, ("mean", "sum", "none"))
        if per_series and reduction == "none":
            raise ValueError("per_series=True reduces over samples, reduction='none' does not; pass one of the two")
        _checks.check_choice("impl", impl, IMPLS)
        self.__dict__["loss"] = loss  # a module would be registered as a part of this one
        self.reduction, self.per_series, self.impl = reduction, bool(per_series), impl
        self.basis = bases.resolve(basis).name
        self.domain = None if domain is None else bases.interval(domain)

    def forward(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            x: samples, ``(*batch, N)``; any shape with a 1-D coef.
            y: targets; the axes before the last one broadcast.
            coef: coefficients, lowest degree first, ``(*batch, degree + 1)``.
            weight: of each sample, 1/sigma**2, in the shape of y; None for 1.
        """
        return polynomial_loss(
            x,
            y,
            coef,
            loss=self.loss,
            weight=weight,
            reduction=self.reduction,
            per_series=self.per_series,
            basis=self.basis,
            domain=self.domain,
            impl=self.impl,
        )

    def extra_repr(self) -> str:
        """The arguments, those that have their default left out."""
        is_plain = isinstance(self.loss, (str, losses.Loss))
        parts = [f"loss={self.loss!r}" if is_plain else f"loss={getattr(self.loss, '__name__', repr(self.loss))}"]
        defaults = {"reduction": "mean", "per_series": False, "basis": "power", "domain": None, "impl": "auto"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(parts)
