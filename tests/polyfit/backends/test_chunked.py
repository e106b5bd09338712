"""The chunked pass where chunks and blocks begin and end, and the Gram matrix."""

import numpy as np
import pytest
import torch
from oracle import polynomial_loss as plain_loss
from oracle import polyval as plain_polyval
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench.memory import peak
from polyfit import bases
from polyfit.backends import chunked, sizes
from polyfit.backends.chunked.parts import Parts
from polyfit.backends.results import Wants
from polyfit.formula import Model
from polyfit.losses import MSE, Huber, PoissonNLL, Quantile

F64 = torch.float64


@pytest.mark.parametrize("basis", ["power", "legendre"])
@pytest.mark.parametrize("shared", ["x", "y", "x and y", "nothing"])
@pytest.mark.parametrize("n_series", [1, 2, 5])
@pytest.mark.parametrize("n_samples", [1, 3, 4, 7, 8, 9, 23, 24, 25, 50])
@pytest.mark.parametrize("keep", [False, True])
def test_every_border_of_chunks(keep, n_samples, n_series, shared, basis, set_sizes, small_chunks):
    set_sizes(kept=60 if keep else 0)
    x = torch.randn(1 if "x" in shared else n_series, n_samples, dtype=F64).requires_grad_()
    y = torch.randn(1 if "y" in shared else n_series, n_samples, dtype=F64).requires_grad_()
    weight = torch.rand(n_series, n_samples, dtype=F64).requires_grad_()
    coef = torch.randn(n_series, 3, dtype=F64).requires_grad_()
    upstream = torch.linspace(-1, 2, n_series, dtype=F64)
    model = Model(basis, bases.affine_map((-2.0, 3.0), bases.BASES[basis], F64), MSE())

    losses = plain_loss(x, y, coef, weight, "sum", per_series=True, domain=(-2.0, 3.0), basis=basis)
    to_x, to_y, to_coef, to_weight = torch.autograd.grad(losses, (x, y, coef, weight), upstream)
    data = (x.detach(), y.detach(), weight.detach())
    bound = chunked.Objective(*data, n_series, 2, model, keep=keep)
    for _ in range(2):  # a second call must not see anything of the first
        sums = bound(coef.detach(), upstream, Wants(x=True, y=True, coef=True, weight=True))
        expected = (losses, weight.sum(1), to_coef, to_x, to_y, to_weight)
        for ours, theirs in zip(sums, expected, strict=True):
            assert ours is not None
            torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-12)

    values = plain_polyval(x, coef, (-2.0, 3.0), basis).expand(n_series, -1)
    torch.testing.assert_close(
        chunked.evaluate(x.detach(), coef.detach(), model), values.detach(), rtol=1e-12, atol=1e-12
    )
    grad = torch.randn(n_series, n_samples, dtype=F64)
    expected = torch.autograd.grad(values, (x, coef), grad)
    ours = chunked.evaluate_backward(grad, x.detach(), coef.detach(), model, Wants(x=True, coef=True))
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
    gram = chunked.gram(x, weight, 4, bases.affine_map((1.0, 5.0), bases.BASES["power"], F64), "power")
    for series in range(n_series):
        powers = np.vander((x[series].numpy() - 3.0) / 2.0, 5, increasing=True)
        weights = np.ones(53) if weight is None else weight[series].numpy()
        np.testing.assert_allclose(gram[series], powers.T @ (weights[:, None] * powers), rtol=1e-13, atol=1e-13)


def test_gram_of_no_samples_is_zero():
    assert chunked.gram(torch.empty(1, 0), None, 2, None, "power").tolist() == [[[0.0] * 3] * 3]


@pytest.mark.parametrize("weight_rows", [0, 1, 3])
@pytest.mark.parametrize("n_series", [1, 3])
@pytest.mark.parametrize("n_samples", [1, 63, 64, 2047, 2048, 2049, 4097, 10_001])
@pytest.mark.parametrize("loss", [MSE(), Huber(0.5), Quantile(0.3), PoissonNLL()])
def test_gradient_of_small_data_is_autograds(loss, n_samples, n_series, weight_rows):
    weight_rows = min(weight_rows, n_series)
    x = torch.rand(1, n_samples, dtype=F64) * 2 - 1
    y = torch.rand(n_series if weight_rows < 2 else 1, n_samples, dtype=F64)
    weight = torch.rand(weight_rows, n_samples, dtype=F64) if weight_rows else None
    coef = torch.randn(n_series, 4, dtype=F64, requires_grad=True)
    options = {"basis": "chebyshev", "pointwise": loss.value}
    losses = 0.1 * plain_loss(x, y, coef, weight, "sum", per_series=True, **options)
    (expected,) = torch.autograd.grad(losses.sum(), coef)
    for dtype, tolerance in ((F64, 1e-12), (torch.float32, 1e-5)):
        data = (None if part is None else part.to(dtype) for part in (x, y, weight))
        bound = chunked.Objective(*data, n_series, 3, Model("chebyshev", None, loss), keep=True, scale=0.1)  # pyright: ignore[reportArgumentType]
        assert bound.kept is not None
        gradient = chunked.Gradient(bound)
        for _ in range(2):  # a second call must not see anything of the first
            ours = torch.from_numpy(gradient(coef.detach().numpy()))
            torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * 0.1 * n_samples)
    with np.errstate(all="ignore"):  # a third call neither, of what is not finite
        gradient(np.full((n_series, 4), np.inf))
    torch.testing.assert_close(
        torch.from_numpy(gradient(coef.detach().numpy())), expected, rtol=1e-5, atol=1e-6 * n_samples
    )


def test_data_that_are_not_small():
    x, model = torch.rand(2, 50), Model("power", None, MSE())
    many = chunked.Objective(x, x, None, 2, 3, model, keep=True)
    long = chunked.Objective(torch.rand(1, sizes.current().kept + 1), x[:1, :1], None, 1, 3, model, keep=True)
    assert many.kept is None
    assert long.kept is None
    assert chunked.Objective(x[:1], x[:1], None, 1, 3, model).kept is None


def test_the_gradient_to_x_of_many_series_takes_a_chunk():
    # All derivatives at once took S d (d + 1) numbers of float64: 1 GB for 3e5 series of degree 20.
    n_series, n_samples, degree = 20_000, 4, 20
    x, y = (torch.rand(n_series, n_samples) for _ in range(2))
    coef = torch.rand(n_series, degree + 1)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    with Watch():
        bound = chunked.Objective(x, y, None, n_series, degree, Model("power", None, MSE()))
        grad_x = bound(coef, None, Wants(x=True)).grad_x
    assert largest <= max(coef.nbytes, 2 * 4 * (degree + 2) * sizes.current().chunk(x.device))
    wide = x.double().requires_grad_()
    plain_loss(wide, y.double(), coef.double(), reduction="sum").backward()
    assert grad_x is not None
    torch.testing.assert_close(grad_x.double(), wide.grad, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("domain", [None, (-1.5, 2.0)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, F64])
@pytest.mark.parametrize("degree", [0, 1, 2, 3, 6, 7])
@pytest.mark.parametrize("basis", bases.BASES)
def test_values_of_one_series_are_those_of_float64(basis, degree, dtype, domain, small_chunks):
    lo, hi = bases.BASES[basis].window if domain is None else domain
    x = (torch.rand(53) * (hi - lo) + lo).to(dtype)
    x[:2] = torch.tensor([lo, hi])
    coef = (torch.randn(degree + 1) / 2 ** torch.arange(degree + 1)).to(dtype)
    model = Model(basis, bases.affine_map(domain, bases.BASES[basis], torch.float64 if dtype == F64 else torch.float32))
    for strided in (x, x.repeat_interleave(2)[::2]):
        values = chunked.evaluate(strided.unsqueeze(0), coef.unsqueeze(0), model)
        exact = plain_polyval(x.double(), coef.double(), domain, basis)
        size = plain_polyval(x.double(), coef.double().abs(), domain, basis).abs().max() + exact.abs().max()
        torch.testing.assert_close(values[0].double(), exact, rtol=0, atol=float(size) * 8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("basis", ["power", "chebyshev"])
def test_values_of_long_data_take_a_chunk(basis, set_sizes):
    set_sizes(with_two_threads=1 << 20)
    n = 4 * sizes.current().with_two_threads
    x, coef = torch.rand(1, n), torch.randn(1, 6)
    model = Model(basis, bases.affine_map((0.0, 1.0), bases.BASES[basis], torch.float32))
    chunk = 4 * sizes.current().chunk_of_one(x.device, n)
    assert peak(lambda: chunked.evaluate(x, coef, model)) <= x.nbytes + 5 * chunk + 4096  # five rows, see `Samples`


def test_a_pass_inside_of_another_one_has_memory_of_its_own():
    x, coef, model = torch.rand(1, 100), torch.randn(1, 6), Model("chebyshev")
    expected = chunked.evaluate(x, coef, model)
    for part in Parts(x, 1, 5, None, "chebyshev"):
        chunked.evaluate(x + 1.0, coef, model)
        torch.testing.assert_close(part.matrix.series(coef)[:, :100], expected)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [MSE(), Huber(), PoissonNLL()])
@pytest.mark.parametrize("want_coef", [False, True])
def test_a_loss_of_long_data_takes_a_chunk(want_coef, loss, weighted, set_sizes):
    set_sizes(with_two_threads=1 << 20)
    n = 2 * sizes.current().with_two_threads
    x, y = torch.rand(1, n), torch.rand(1, n)
    weight = torch.rand(1, n) if weighted else None
    model = Model("chebyshev", None, loss)
    run = chunked.Objective(x, y, weight, 1, 5, model)
    chunk = 4 * sizes.current().chunk_of_one(x.device, n, may_be_alone=loss.name != "poisson_nll")
    assert peak(lambda: run(torch.rand(1, 6), None, Wants(coef=want_coef))) <= 12 * chunk


def test_few_samples_of_one_series_take_no_product_of_torch():
    # Its products wake all threads from some 8192 x 6 elements on, and wait for them: milliseconds on busy cores.
    names = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if any(isinstance(part, Tensor) and part.numel() > 1000 for part in args):
                names.add(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    x, coef = torch.rand(1, sizes.current().chunk_of_a_thread), torch.rand(1, 6)
    with Watch():
        for loss in (MSE(), Huber(), PoissonNLL()):
            chunked.Objective(x, x, x, 1, 5, Model("legendre", None, loss))(coef, None, Wants(coef=True, x=True))
    assert "mul" in names
    assert not names & {"mm", "bmm", "addmm", "addmv", "mv", "dot"}
