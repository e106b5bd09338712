"""A layer with a learnable polynomial on each edge between inputs and outputs (KAN)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polyfit import _checks, autograd, bases, formula
from polyfit.backends import resolve_impl
from polyfit.backends.select import IMPLS
from polyfit.nn import pictures
from polyfit.nn.state import CoefficientModule, check_goes_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How coefficients may be laid out, in the notation of einops: axes from the slowest to the fastest; what is in brackets
# is one axis, and its last name runs fastest.
LAYOUTS = ("in out degree", "out in degree", "degree in out", "out (in degree)", "out (degree in)")


class PolynomialKAN(CoefficientModule):
    r"""A layer with a learnable polynomial on each edge between inputs and outputs, a KAN layer.

    .. math:: y_o = \sum_i \sum_{k=0}^{d} C_{k,i,o} \, P_k(s(x_i))

    P_k are the polynomials of `basis`, and s is `squash`, which takes the real numbers into [-1, 1]. P_0 is 1: the
    constant terms of an output add up to one number, which is stored as its bias. Nothing of the size
    batch x in x degree is allocated or saved; backward computes the polynomials again.

    Args:
        in_features: the number of inputs.
        out_features: the number of outputs.
        degree: d, at least 1.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        squash: "tanh"; "algebraic", x / sqrt(1 + x**2), whose slope falls like x**-3 and not like exp(-2 x); "clamp",
            x cut off at -1 and 1: outside of [-1, 1] the gradient to x is 0, and an input that is there for all data
            stops learning; None for x itself, for inputs that are in [-1, 1] already.
        impl: "auto" (on a GPU a fused kernel for half types and where TF32 is allowed, otherwise matrix products over
            chunks of rows), "triton", "torch", or "compile", which does here what "torch" does.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        coef: (degree, in_features, out_features): ``coef[k - 1, i, o]`` multiplies P_k.
        bias: (out_features,): the sum of the constant terms of each output.

    Shape: (..., in_features) to (..., out_features).

    dtypes: float16, bfloat16, float32 and float64, as nn.Linear: input and parameters agree, and under autocast the
    result has the dtype of autocast. Polynomials are computed in float32, or in float64 for float64.

    Raises:
        TypeError: an input that is not a floating-point tensor, or of another dtype than the parameters; sizes that are
            not ints.
        ValueError: an input with another number of features; sizes below 1; an unknown name.

    >>> import torch, polyfit
    >>> layer = polyfit.nn.PolynomialKAN(2, 3, degree=4)
    >>> layer
    PolynomialKAN(in_features=2, out_features=3, degree=4)
    >>> layer(torch.zeros(5, 2)).shape
    torch.Size([5, 3])

    References:
        KAN (arXiv 2404.19756); with Chebyshev polynomials of tanh(x), ChebyKAN (arXiv 2405.07200).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        degree: int,
        basis: str = "chebyshev",
        squash: str | None = "tanh",
        *,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _checks.check_count("in_features", in_features, 1)
        self.out_features = _checks.check_count("out_features", out_features, 1)
        self.degree = _checks.check_count("degree", degree, 1)
        self.basis = bases.resolve(basis).name
        _checks.check_choice("squash", squash, formula.SQUASHES)
        self.squash = squash
        _checks.check_choice("impl", impl, IMPLS)
        self.impl = impl
        sizes = (self.degree, self.in_features, self.out_features)
        self.coef = nn.Parameter(torch.empty(sizes, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(self.out_features, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the coefficients of P_1 from N(0, 1 / in_features) and set all others to 0: a linear layer of s(x)."""
        with torch.no_grad():
            self.bias.zero_()
            self.coef.zero_()
            self.coef[0].normal_(std=1.0 / math.sqrt(self.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """(..., out_features) for x (..., in_features)."""
        coef = self.coef
        self._check_input(x, coef)
        impl = resolve_impl(self.impl, x.device, self.degree)
        rows = x if x.dim() == 2 else x.reshape(-1, self.in_features)
        y = autograd.kan(rows, coef, self.bias, self.basis, self.squash, impl)
        return y if x.dim() == 2 else y.view(*x.shape[:-1], self.out_features)

    def _check_input(self, x: Tensor, coef: Tensor) -> None:
        """Refuse what the layer does not take."""
        _checks.check_tensor("x", x)
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x has shape {tuple(x.shape)} and the layer takes (..., {self.in_features}); features are on the last"
                " axis: pass x of that width, or make the layer with another in_features"
            )
        if x.dtype != coef.dtype or x.device != coef.device:
            check_goes_with(x, coef, is_fine=x.dtype == coef.dtype or _is_cast(x, coef), wanted=x.dtype)

    # --- coefficients of other programs ---

    def load_coefficients(self, C: Tensor, *, layout: str) -> None:  # noqa: N803 - of the formula
        """Set all coefficients to those of another program. Constant terms are added up in float64.

        Args:
            C: the coefficients, with degree + 1 of them for an edge, that of P_0 first.
            layout: which axis is which, from the slowest to the fastest in a contiguous C. What is in brackets is one
                axis, of in_features * (degree + 1), and its last name runs fastest: "in out degree",
                "out in degree", "degree in out", "out (in degree)" or "out (degree in)". Shapes can coincide: only the
                name tells the last two apart.

        Raises:
            TypeError: C is not a floating-point tensor.
            ValueError: an unknown layout; a C of another shape than the layout has for this layer, or with NaN or
                infinity.

        >>> import torch
        >>> layer = PolynomialKAN(1, 1, degree=2)
        >>> layer.load_coefficients(torch.tensor([[[5.0, 6.0, 7.0]]]), layout="in out degree")
        >>> layer.bias.tolist(), layer.coef.flatten().tolist()
        ([5.0], [6.0, 7.0])
        """
        _checks.check_tensor("C", C)
        _checks.check_choice("layout", layout, LAYOUTS)
        sizes = {"in": self.in_features, "out": self.out_features, "degree": self.degree + 1}
        names = layout.replace("(", "").replace(")", "").split()
        separate = [sizes[name] for name in names]
        shape = separate if "(" not in layout else [separate[0], math.prod(separate[1:])]
        if list(C.shape) != shape:
            raise ValueError(
                f"C has shape {tuple(C.shape)}, and layout={layout!r} has {tuple(shape)} for {self.in_features} inputs,"
                f" {self.out_features} outputs and degree {self.degree}; make the layer with the sizes of C, or pass"
                " its layout"
            )
        _checks.check_finite({"C": C.detach()}, "pass finite coefficients")
        with torch.no_grad():
            by_degree = C.detach().reshape(separate).permute([names.index(name) for name in ("degree", "in", "out")])
            self.bias.copy_(by_degree[0].double().sum(0))
            self.coef.copy_(by_degree[1:])

    def coefficients(self) -> Tensor:
        """The coefficients C (in_features, out_features, degree + 1), a copy without gradient, for another program.

        The constant terms of an output are one number here. The first input has it, and all others have 0.
        `load_coefficients` with layout="in out degree" takes them back bit by bit.
        """
        constants = torch.zeros_like(self.coef[:1])
        constants[0, 0] = self.bias
        return torch.cat([constants, self.coef]).detach().permute(1, 2, 0).contiguous()

    def no_weight_decay(self) -> set[str]:
        """The names of the parameters that an optimizer must not decay, in the form of timm: the bias.

        The coefficients are weights, as those of nn.Linear: without them an edge is 0.
        """
        return {"bias"}

    def plot(self, *, edges: int = 12) -> Figure:
        """Plot the learned functions of the edges that vary most, without their constants; needs matplotlib.

        Args:
            edges: how many to show.

        Returns:
            A matplotlib Figure; `figure.savefig("kan.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed (extra `cli`).
        """
        return pictures.kan_figure(self.coef, self.basis, self.squash, _checks.check_count("edges", edges, 1))

    def _meaning(self) -> dict[str, Any]:
        return {"basis": self.basis, "squash": self.squash}

    def _sizes(self, shape: torch.Size) -> str:
        if len(shape) != 3:
            return f"shape {tuple(shape)}"
        return f"degree {shape[0]}, {shape[1]} inputs and {shape[2]} outputs"

    def extra_repr(self) -> str:
        """The arguments, those that have their default left out."""
        parts = [f"in_features={self.in_features}", f"out_features={self.out_features}", f"degree={self.degree}"]
        defaults = {"basis": "chebyshev", "squash": "tanh", "impl": "auto"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join(parts)


def _is_cast(x: Tensor, coef: Tensor) -> bool:
    """Whether autocast brings both to one dtype; it leaves float64 as it is."""
    is_on = torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
    return is_on and torch.float64 not in {x.dtype, coef.dtype}
