"""The registry of cases under every transform of PyTorch, each against the same transform of the plain formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from cases import CASES, Case, Function
from packaging.version import Version
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils._pytree import tree_leaves

import polyfit

F64 = torch.float64
ALL = (0, 1, 2, 3)


@pytest.fixture(autouse=True)
def _functions_for_few_samples(set_sizes: Callable[..., None]):
    """The autograd Functions under transforms, also for few samples."""
    set_sizes(transformed=0)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def assert_same(ours: Any, plain: Any) -> None:
    """Equal to rounding. float64 sums of some dozen terms, derivatives of a degree of 6 at most: 1e-10 is generous."""
    ours, plain = (tree_leaves(result) for result in (ours, plain))
    assert len(ours) == len(plain)
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10 * max(1.0, float(theirs.detach().abs().max())))


def summed(function: Function) -> Function:
    """A scalar that tells the losses of series apart."""

    def total(*operands: Tensor) -> Tensor:
        values = function(*operands)
        return (values * torch.linspace(0.5, 1.5, values.numel(), dtype=F64).view(values.shape)).sum()

    return total


def run(function: Function, operands: list[Tensor], taken: tuple[int, ...]) -> tuple[Any, ...]:
    """Values and gradients."""
    leaves = [operands[i].detach().clone().requires_grad_() for i in taken]
    value = function(*leaves)
    return value, torch.autograd.grad(summed(lambda v: v)(value), leaves, allow_unused=True, materialize_grads=True)


def stacked(case: Case, dims: tuple[int | None, ...]) -> list[Tensor]:
    """Operands of three examples where dims says so, stacked along that axis."""
    examples = [case.operands(seed) for seed in (1, 2, 3)]
    return [
        operand if dim is None else torch.stack([example[i] for example in examples], dim)
        for i, (operand, dim) in enumerate(zip(examples[0], dims, strict=True))
    ]


# --- derivatives ---


def test_value_and_gradients(case):
    for ours, plain, taken in case.pairs:
        assert_same(run(ours, case.operands(), taken), run(plain, case.operands(), taken))


def test_functional_gradients(case):
    for ours, plain, taken in case.pairs:
        operands = [case.operands()[i] for i in taken]
        wanted = tuple(range(len(operands)))
        assert_same(grad(summed(ours), wanted)(*operands), grad(summed(plain), wanted)(*operands))
        assert_same(jacrev(ours, wanted)(*operands), jacrev(plain, wanted)(*operands))


def test_hessian(case):
    ours, plain = case.loss_pair
    operands = case.operands()
    expected = hessian(summed(plain), ALL)(*operands)
    assert_same(jacrev(jacrev(summed(ours), ALL), ALL)(*operands), expected)
    assert_same(hessian(summed(ours), ALL)(*operands), expected)


def test_double_backward(case):
    for ours, plain, taken in case.pairs:
        results = []
        for function in (ours, plain):
            operands = [case.operands()[i].requires_grad_() for i in taken]
            first = torch.autograd.grad(summed(function)(*operands) ** 2, operands, create_graph=True)
            total = torch.stack([(part**2).sum() for part in first]).sum()
            results.append((first, torch.autograd.grad(total, operands)))
        assert_same(*results)


def test_forward_mode(case):
    for ours, plain, taken in case.pairs:
        operands, tangents = (tuple(case.operands(seed)[i] for i in taken) for seed in (0, 5))
        assert_same(jvp(ours, operands, tangents), jvp(plain, operands, tangents))
    ours, plain = case.loss_pair
    operands = case.operands()
    assert_same(jacfwd(jacfwd(ours, 2), 0)(*operands), jacfwd(jacfwd(plain, 2), 0)(*operands))
    assert_same(jacrev(jacfwd(ours, 2), 2)(*operands), jacrev(jacfwd(plain, 2), 2)(*operands))


def test_forward_mode_of_a_backward(case):
    results = []
    for function in case.loss_pair:
        operands = [operand.requires_grad_() for operand in case.operands()]
        value = function(*operands)
        with forward_ad.dual_level():
            upstream = forward_ad.make_dual(torch.ones_like(value), torch.full_like(value, 2.0))
            gradients = torch.autograd.grad(value, operands, upstream)
            results.append([forward_ad.unpack_dual(gradient).tangent for gradient in gradients])
    assert_same(*results)


# --- vmap ---


@pytest.mark.parametrize("dims", [(0, 0, 0, 0), (None, None, 0, None), (0, None, None, None), (None, 0, -1, None)])
def test_vmap(case, dims):
    for ours, plain, taken in case.pairs:
        some = tuple(dims[i] for i in taken)
        operands = [stacked(case, dims)[i] for i in taken]
        if set(some) == {None}:
            continue
        wanted = tuple(range(len(some)))
        for of in (
            lambda f, some=some: vmap(f, some),
            lambda f, some=some, wanted=wanted: vmap(grad(summed(f), wanted), some),
            lambda f, some=some, wanted=wanted: grad(lambda *o: (vmap(f, some)(*o) ** 2).sum(), wanted),
        ):
            assert_same(of(ours)(*operands), of(plain)(*operands))


def test_nested_vmap(case):
    ours, plain = case.loss_pair
    x, y, _, weight = stacked(case, (0, 0, None, None))
    coefs = stacked(case, (None, None, 0, None))[2]

    def grid(function: Function) -> Function:
        return vmap(vmap(function, (None, None, 0, None)), (0, 0, None, None))

    assert_same(grid(ours)(x, y, coefs, weight), grid(plain)(x, y, coefs, weight))
    gradients = [grid(grad(summed(function), ALL))(x, y, coefs, weight) for function in (ours, plain)]
    assert_same(*gradients)


def test_hessian_of_each_example():
    case = CASES["huber, chebyshev, own x"]
    ours, plain = case.loss_pair
    operands = stacked(case, (0, 0, 0, 0))
    assert_same(vmap(hessian(summed(ours), 2))(*operands), vmap(hessian(summed(plain), 2))(*operands))


@pytest.mark.parametrize("name", ["mse, power, one series", "huber, chebyshev, own x"])
def test_few_samples_under_transforms_are_plain_operations(name, monkeypatch, set_sizes):
    set_sizes(transformed=10_000)

    def no_function(*_: Any) -> None:
        raise AssertionError("a Function was applied")

    monkeypatch.setattr(torch.autograd.Function, "apply", no_function)
    case = CASES[name]
    for (ours, plain), taken in ((case.loss_pair, ALL), (case.value_pair, (0, 2))):
        operands, examples = ([given[i] for i in taken] for given in (case.operands(), stacked(case, (0, 0, 0, 0))))
        wanted = tuple(range(len(taken)))
        assert_same(hessian(summed(ours), wanted)(*operands), hessian(summed(plain), wanted)(*operands))
        gradients = [vmap(grad(summed(function), wanted))(*examples) for function in (ours, plain)]
        assert_same(*gradients)


def test_autograd_within_a_transform():
    case = CASES["mse, power, one series"]
    results = []
    for function in case.loss_pair:
        x, y, coef, weight = case.operands()

        def penalty(coef: Tensor, function: Any = function, x: Any = x, y: Any = y, weight: Any = weight) -> Tensor:
            value = function(x, y, coef, weight)
            (slope,) = torch.autograd.grad(value, coef, create_graph=True)
            return (slope**2).sum()

        results.append(grad(penalty)(coef))
    assert_same(*results)


# --- compilers ---


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    yield
    torch._dynamo.reset()


def test_compile(case):
    for ours, plain, taken in case.pairs:
        compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
        assert_same(run(compiled, case.operands(), taken), run(plain, case.operands(), taken))


INDUCTOR = ["mse, power, one series", "huber, chebyshev, own x", "poisson_nll rate full, legendre, shared x"]


@pytest.mark.compiler
@pytest.mark.parametrize("name", INDUCTOR)
def test_compile_by_inductor(name):
    case = CASES[name]
    for ours, plain, taken in case.pairs:
        compiled = torch.compile(ours, fullgraph=True)
        assert_same(run(compiled, case.operands(), taken), run(plain, case.operands(), taken))


TRANSFORMS: dict[str, Callable[[Function], Callable[..., Any]]] = {
    "grad": lambda f: grad(summed(f), ALL),
    "hessian": lambda f: hessian(summed(f), 2),
    "jacrev": lambda f: jacrev(f, 2),
    "jacfwd": lambda f: jacfwd(f, 2),
    "jvp": lambda f: lambda *operands: jvp(f, operands, operands),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", INDUCTOR)
def test_compile_around_a_transform(name, transform):
    ours, plain = CASES[name].loss_pair
    operands = CASES[name].operands()
    compiled = torch.compile(TRANSFORMS[transform](ours), fullgraph=True, backend="aot_eager")
    assert_same(compiled(*operands), TRANSFORMS[transform](plain)(*operands))


@pytest.mark.parametrize("name", INDUCTOR)
def test_compile_around_vmap(name):
    ours, plain = CASES[name].loss_pair
    operands = stacked(CASES[name], (0, 0, 0, 0))
    for of in (vmap, lambda f: vmap(grad(summed(f), 2))):
        compiled = torch.compile(of(ours), fullgraph=True, backend="aot_eager")
        assert_same(compiled(*operands), of(plain)(*operands))


def test_compile_takes_any_number_of_samples_in_one_graph():
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    @torch.compile(fullgraph=True, backend=counter)
    def compiled(x: Tensor, y: Tensor, coef: Tensor) -> Tensor:
        return polyfit.polynomial_loss(x, y, coef, domain=(-2, 3)) + polyfit.polyval(x, coef).mean()

    for n_samples in (11, 12, 13, 100, 5000):
        x, y, coef = torch.randn(n_samples), torch.randn(n_samples), torch.randn(4, requires_grad=True)
        value = compiled(x, y, coef)
        plain = polyfit.polynomial_loss(x, y, coef, domain=(-2, 3)) + polyfit.polyval(x, coef).mean()
        torch.testing.assert_close(value, plain)
        torch.testing.assert_close(torch.autograd.grad(value, coef), torch.autograd.grad(plain, coef))
    assert counter.frame_count <= 2  # one for the first size, one for all


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compile_takes_any_domain_in_one_graph(dtype):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def both(x: Tensor, y: Tensor, coef: Tensor, lo: float, hi: float) -> Tensor:
        values = polyfit.polyval(x, coef, domain=(lo, hi), basis="laguerre").mean()
        return polyfit.polynomial_loss(x, y, coef, domain=(lo, hi)) + values

    compiled = torch.compile(both, fullgraph=True, backend=counter)
    x, y = torch.rand(50, dtype=dtype) + 2.0, torch.randn(50, dtype=dtype)
    coef = torch.randn(4, dtype=dtype, requires_grad=True)
    for domain in ((2.0, 4.0), (2.1, 4.3), (1.9, 4.4), (1.0, 5.0), (-1.0, 7.0)):
        value, plain = compiled(x, y, coef, *domain), both(x, y, coef, *domain)
        torch.testing.assert_close(value, plain)
        torch.testing.assert_close(torch.autograd.grad(value, coef), torch.autograd.grad(plain, coef))
    # One for the first domain and one for all; torch 2.11 compiles for each domain.
    assert counter.frame_count <= (2 if Version(torch.__version__) >= Version("2.13") else 6)


@pytest.mark.parametrize("name", INDUCTOR)
@pytest.mark.parametrize("create_graph_of", range(4))
def test_a_second_derivative_of_what_is_compiled_raises(name, create_graph_of):
    operands = [operand.detach().clone() for operand in CASES[name].operands()]
    operands[create_graph_of].requires_grad_()
    compiled = torch.compile(CASES[name].loss_pair[0], fullgraph=True, backend="aot_eager")
    value = summed(compiled)(*operands)
    (first,) = torch.autograd.grad(value, operands[create_graph_of], create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad((first**2).sum(), operands[create_graph_of], allow_unused=True)


def test_a_transform_of_what_is_compiled_raises():
    case = CASES["mse, power, one series"]
    compiled = torch.compile(case.loss_pair[0], fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="functorch"):
        grad(compiled, 2)(*case.operands())


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", INDUCTOR[:2])
def test_export(name, strict):
    case = CASES[name]

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, y: Tensor, coef: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
            return case.loss_pair[0](x, y, coef, weight), case.value_pair[0](x, coef)

    samples = torch.export.Dim("samples")
    shapes = tuple({operand.dim() - 1: samples} if i != 2 else None for i, operand in enumerate(case.operands()))
    program = torch.export.export(Module(), tuple(case.operands()), dynamic_shapes=shapes, strict=strict)
    assert not any("polyfit" in str(node.target) for node in program.graph.nodes)
    longer = [
        torch.cat((a, b), -1) if i != 2 else a
        for i, (a, b) in enumerate(zip(case.operands(), case.operands(7), strict=True))
    ]
    x, y, coef, weight = longer
    expected = case.loss_pair[1](x, y, coef, weight), case.value_pair[1](x, coef)
    assert_same(program.module()(*longer), expected)


def test_make_fx_sees_operators():
    from torch.fx.experimental.proxy_tensor import make_fx

    case = CASES["mse, power, one series"]

    def loss(x: Tensor, y: Tensor, coef: Tensor, weight: Tensor) -> Tensor:
        return case.loss_pair[0](x, y, coef, weight)

    graph = make_fx(loss)(*case.operands())
    assert any("polyfit.objective" in str(node.target) for node in graph.graph.nodes)
    assert_same(graph(*case.operands(3)), case.loss_pair[1](*case.operands(3)))
