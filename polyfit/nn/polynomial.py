"""An elementwise learnable polynomial: an activation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from polyfit import _checks, autograd, bases, formula
from polyfit._channels import channels_of
from polyfit.backends import resolve_impl
from polyfit.backends.select import IMPLS
from polyfit.nn import pictures
from polyfit.nn.histogram import Histogram
from polyfit.nn.initial import Function, Initial, initial, name_of
from polyfit.nn.state import CoefficientModule, check_goes_with

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _model_of(basis: str, domain: bases.Interval | None, outside: str, dtype: torch.dtype) -> formula.Model:
    """The polynomial apart from its coefficients."""
    mapping = bases.affine_map(domain, bases.BASES[basis], formula.compute_dtype(dtype))
    return formula.Model(basis, mapping, outside=outside)


_known_model_of = functools.lru_cache(maxsize=256)(_model_of)  # the compiler of torch warns of it


class Polynomial(CoefficientModule):
    r"""A learnable polynomial of each element: one for the module, one a channel, or one a group of channels.

    .. math:: y = p_g(x) = \sum_{k=0}^{d} c_{g,k} \, P_k(t(x))

    P_k are the polynomials of `basis`, t(x) maps `domain` affinely onto the window of the basis, and g is the group of
    the channel that x is in. Outside of the domain, `outside` says what takes the place of the polynomial, which would
    grow like x**d there: with "linear" its tangent at the nearer end. No statistic of the batch is used, so that an
    element of the output depends on that element of the input alone.

    Args:
        degree: d, at least 0.
        num_channels: 1 for one polynomial, whatever the channels of the input are (as nn.PReLU); otherwise the number
            of channels of the input.
        num_groups: the number of polynomials; None for one a channel. Each is for num_channels / num_groups
            neighbouring channels.
        channel_dim: the axis of channels: 1 for (batch, channels, ...), -1 for (batch, tokens, channels). It is not
            used where there is one polynomial for a module of one channel.
        basis: "power", "chebyshev", "legendre", "hermite", "hermite_e" or "laguerre".
        domain: ``(lo, hi)``, where the polynomial is learned. It is mapped onto the window of the basis: [0, 1] for
            laguerre, [-1, 1] for the others. None is no mapping, t = x, and needs outside="extend".
        outside: "linear" (value and slope continue: the tangent), "clamp" (the value at the end; no gradient to x
            there) or "extend" (the polynomial itself).
        init: the initial function, see below.
        init_slope: for a fitted init: fit value and slope together, and not the value alone. The slopes at the ends,
            which "linear" continues, are then nearer to those of the function, and the values less near.
        impl: "auto" (a fused kernel on a GPU, plain PyTorch elsewhere), "triton", "torch" or "compile".
        device: of the parameter.
        dtype: of the parameter.

    Initial functions:
        - "identity": x, exactly.
        - The name of an activation of torch.nn.functional, such as "silu", or any elementwise function of a tensor.
          It is fitted on the domain in float64, by least squares under the weight 1/sqrt(1 - t**2), t in [-1, 1]: the
          largest error is near the smallest possible one, and known as `approximation_error`. Slopes at the ends are
          below 1.6 for "silu", "gelu", "relu", "tanh" and the like on (-4, 4) at degrees 3 to 9. The default domain,
          (-1, 1), is narrow for a fit: pass domain=(-4, 4). A layer is pickled with its function, which a lambda does
          not permit; the state_dict holds numbers alone.
        - "hermite": the sum of He_n(x) / (n! sqrt(e)), which keeps the second moment of normal inputs of unit variance
          except for 1.9 % at degree 3 and 0.06 % at degree 5 (0.21 % with outside="linear" on (-4, 4)). It needs a
          domain that covers (-4, 4), or outside="extend".
          It is nearly exp(x - 1) and steep on the right: its slope at 4 is 7.6 at degree 3 and 17 at degree 5.

    Attributes:
        coef: the coefficients, lowest degree first: (degree + 1,) for one polynomial, else (num_groups, degree + 1).
        approximation_error: the largest distance of the initial polynomial from the function that it was fitted to, at
            20001 points of the domain; None for "identity" and "hermite".
        inputs_seen: the `Histogram` of the last `record_inputs`, or None.

    Shape: any, with num_channels at channel_dim; the output has the shape and the memory format of the input.

    dtypes: float16, bfloat16, float32 and float64; the output has that of the input. coef has the dtype of the input,
    or is float32 for a half type: then, as under autocast, it computes in float32 from float32 coefficients.

    Raises:
        TypeError: an input that is not a floating-point tensor, or whose dtype does not go with that of coef; a degree
            that is not an int; a domain that is not a pair of numbers.
        ValueError: channels that do not match, a channel_dim that is not there, groups that do not divide the channels,
            lo >= hi, an unknown name, an init that cannot be fitted.

    >>> import torch, polyfit
    >>> act = polyfit.nn.Polynomial(5, domain=(-4, 4), init="silu")
    >>> act
    Polynomial(degree=5, domain=(-4.0, 4.0), init='silu', approximation_error=0.043)
    >>> act(torch.tensor([0.0, 1.0, 10.0])).detach()
    tensor([0.0430, 0.7275, 8.9789])

    References:
        PReLU (He et al., arXiv 1502.01852) for a function a channel; Hermite activations (arXiv 2502.01247), whose
        coefficients "hermite" has.
    """

    init: str | Function

    def __init__(
        self,
        degree: int,
        num_channels: int = 1,
        *,
        num_groups: int | None = None,
        channel_dim: int = 1,
        basis: str = "chebyshev",
        domain: Sequence[float] | None = (-1.0, 1.0),
        outside: str = "linear",
        init: str | Function = "identity",
        init_slope: bool = False,
        impl: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        # Degree 0 with the identity is refused below, with the advice to pass another init.
        self.degree = _checks.check_count(
            "degree", degree, 1 if isinstance(init, str) and init == "identity" and degree != 0 else 0
        )
        self.num_channels = _checks.check_count("num_channels", num_channels, 1)
        self.num_groups = self.num_channels if num_groups is None else _checks.check_count("num_groups", num_groups, 1)
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"num_groups={self.num_groups} does not divide num_channels={self.num_channels}; all groups have as"
                " many channels: pass a divisor"
            )
        if isinstance(channel_dim, bool) or not isinstance(channel_dim, int):
            raise TypeError(
                f"channel_dim={channel_dim!r} is {type(channel_dim).__name__}; pass an int, such as 1 or -1"
            )
        self.channel_dim = channel_dim
        self.basis = bases.resolve(basis).name
        self.domain = None if domain is None else bases.interval(domain)
        _checks.check_choice("outside", outside, formula.OUTSIDE)
        if self.domain is None and outside != "extend":
            raise ValueError(
                f"domain=None is no interval, and outside={outside!r} needs one; pass domain=(lo, hi), or"
                " outside='extend'"
            )
        self.outside = outside
        _checks.check_choice("impl", impl, IMPLS)
        self.impl = impl
        object.__setattr__(self, "init", init)  # a module would be registered as a part of this one
        self.init_slope = bool(init_slope)
        self.approximation_error: float | None = None
        self.inputs_seen: Histogram | None = None
        shape = (self.degree + 1,) if self.num_groups == 1 else (self.num_groups, self.degree + 1)
        self.coef = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.reset_parameters()

    @classmethod
    def approximating(
        cls,
        function: str | Function,
        degree: int,
        domain: Sequence[float] = (-4.0, 4.0),
        *,
        init_slope: bool = False,
        **options: Any,
    ) -> Polynomial:
        """A layer whose initial function is the least-squares approximation of a function on a domain.

        Args:
            function: the name of an activation of torch.nn.functional, or an elementwise function of a tensor.
            degree: of the polynomial.
            domain: where the function is approximated.
            init_slope: fit value and slope, and not the value alone.
            options: all other arguments of the class.

        Returns:
            The layer. Its `approximation_error` is the largest distance from the function, at 20001 points of the
            domain; outside of it the layer continues as `outside` says.

        Raises:
            ValueError: the function is not known, not elementwise, or not finite on the domain.

        >>> import torch
        >>> layer = Polynomial.approximating(torch.nn.functional.silu, degree=7, domain=(-4, 4))
        >>> round(layer.approximation_error, 4)
        0.0101
        """
        if isinstance(function, str) and function in {"identity", "hermite"}:
            raise ValueError(f"function={function!r} is not approximated; pass it as init of the class")
        return cls(degree, domain=domain, init=function, init_slope=init_slope, **options)

    def reset_parameters(self) -> None:
        """Set the coefficients to those of `init`, of all groups alike."""
        start = self._start()
        self.approximation_error = start.error
        with torch.no_grad():
            self.coef.copy_(start.coef.expand_as(self.coef))

    def _start(self) -> Initial:
        """The initial coefficients."""
        return initial(self.init, self.degree, self.basis, self.domain, self.outside, with_slope=self.init_slope)

    def forward(self, x: Tensor) -> Tensor:
        """p(x) of each element, in the shape, dtype and memory format of x."""
        coef = self.coef
        self._check_input(x, coef)
        model_of = _model_of if torch.compiler.is_compiling() else _known_model_of
        model = model_of(self.basis, self.domain, self.outside, x.dtype)
        channels = channels_of(x, self.channel_dim, self.num_groups)
        return autograd.activation(x, coef, model, resolve_impl(self.impl, x.device, self.degree), channels)

    def _check_input(self, x: Tensor, coef: Tensor) -> None:
        """Refuse what the layer does not take."""
        if not (isinstance(x, Tensor) and x.dtype == coef.dtype and x.device == coef.device) or x.is_nested:
            _checks.check_tensor("x", x)
            wanted = formula.compute_dtype(x.dtype)
            check_goes_with(x, coef, is_fine=coef.dtype in {x.dtype, wanted}, wanted=wanted)
        elif x.layout != torch.strided or x.dtype not in _checks.DTYPES:
            _checks.check_tensor("x", x)
        if self.num_channels == 1:
            return
        if not -x.dim() <= self.channel_dim < x.dim():
            raise ValueError(
                f"x has shape {tuple(x.shape)}, without an axis {self.channel_dim}, which is to hold the"
                f" {self.num_channels} channels; make the layer with another channel_dim"
            )
        if x.shape[self.channel_dim] != self.num_channels:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, with {x.shape[self.channel_dim]} channels on axis {self.channel_dim},"
                f" and the layer is for {self.num_channels}; make it with num_channels={x.shape[self.channel_dim]}, or"
                " with another channel_dim"
            )

    def no_weight_decay(self) -> set[str]:
        """The names of the parameters that an optimizer must not decay, in the form of timm: all.

        Decay would draw the function towards zero, and not towards a simpler one. See
        `polyfit.nn.parameter_groups` for the groups of an optimizer.
        """
        return {"coef"}

    @contextlib.contextmanager
    def record_inputs(self, bins: int = 100) -> Iterator[Histogram]:
        """Count the inputs of all forward passes in a histogram a group, for `plot`; only the counts are kept.

        It spans the domain and half of its width to each side; inputs beyond are counted apart. (Without a domain it
        spans (-6, 6).) A module that torch.compile has compiled already counts nothing: record on the module itself.
        An export counts nothing. Under torch.vmap the inputs of all examples are counted, and with
        torch.utils.checkpoint those of both forward passes.

        Args:
            bins: the number of bins.

        Returns:
            The histogram, for a with statement; afterwards it is `inputs_seen`.

        >>> import torch
        >>> layer = Polynomial(3)
        >>> with layer.record_inputs(bins=4) as seen:
        ...     y = layer(torch.tensor([-1.5, -0.5, 0.5, 0.6, 7.0]))
        >>> seen
        Histogram(5 values, 0 below -2, 1 above 2)
        >>> seen.counts
        tensor([[1, 1, 2, 0]])
        """
        lo, hi = self._range()
        histogram = Histogram(lo, hi, _checks.check_count("bins", bins, 1), self.num_groups, self.channel_dim)
        handle = self.register_forward_pre_hook(lambda _, args: histogram.add(args[0]))
        try:
            yield histogram
        finally:
            handle.remove()
            self.inputs_seen = histogram

    def _range(self) -> tuple[float, float]:
        """The part of the axis that pictures show: the domain, and half of its width to each side."""
        lo, hi = self.domain or (-3.0, 3.0)
        beyond = 0.5 * (hi - lo)
        return lo - beyond, hi + beyond

    def plot(self, *, groups: Sequence[int] | None = None) -> Figure:
        """Plot the learned functions over the domain and beyond it; needs matplotlib.

        Dashed: the initial function. Grey: the histogram of `inputs_seen`, where `record_inputs` was used.

        Args:
            groups: the indices of the functions to show; None for all, and for 12 at even steps if there are more.

        Returns:
            A matplotlib Figure; `figure.savefig("activation.png")` writes it.

        Raises:
            ImportError: matplotlib is not installed (extra `cli`).
            ValueError: a group that is not there.
        """
        functions = pictures.Functions(
            self.coef.reshape(self.num_groups, -1),
            self._start().coef,
            name_of(self.init).strip("'"),
            self.basis,
            self.domain,
            self.outside,
            "channel" if self.num_groups == self.num_channels else "group",
            self.inputs_seen,
        )
        return pictures.activation_figure(functions, self._range(), groups)

    def _meaning(self) -> dict[str, Any]:
        return {"basis": self.basis, "domain": self.domain, "outside": self.outside}

    def _sizes(self, shape: torch.Size) -> str:
        if len(shape) not in {1, 2}:
            return f"shape {tuple(shape)}"
        count = 1 if len(shape) == 1 else shape[0]
        return f"{count} polynomial{'' if count == 1 else 's'} of degree {shape[-1] - 1}"

    def extra_repr(self) -> str:
        """The arguments, those that have their default left out, and the error of a fitted init."""
        parts = [f"degree={self.degree}"]
        if self.num_channels != 1:
            parts.append(f"num_channels={self.num_channels}")
        if self.num_groups != self.num_channels:
            parts.append(f"num_groups={self.num_groups}")
        defaults = {"channel_dim": 1, "basis": "chebyshev", "domain": (-1.0, 1.0), "outside": "linear"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        if self.init != "identity":
            parts.append(f"init={name_of(self.init)}")
        defaults = {"init_slope": False, "impl": "auto"}
        parts += [f"{name}={getattr(self, name)!r}" for name, value in defaults.items() if getattr(self, name) != value]
        if self.approximation_error is not None:
            parts.append(f"approximation_error={self.approximation_error:.3g}")
        return ", ".join(parts)
