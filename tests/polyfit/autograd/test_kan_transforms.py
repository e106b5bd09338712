"""The KAN layer under every transform of PyTorch, each against the same transform of a polynomial an edge."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import oracle
import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils._pytree import tree_leaves

from polyfit import autograd, formula
from polyfit.backends import operators
from polyfit.bases import BASES
from polyfit.nn import PolynomialKAN

F64 = torch.float64
ALL = (0, 1, 2)
N_IN, N_OUT, DEGREE = 4, 3, 3
SQUASHES = list(formula.SQUASHES)
# Each basis with a squash, each squash with a basis.
PAIRS = [(basis, SQUASHES[i % len(SQUASHES)]) for i, basis in enumerate(BASES)]
Function = Callable[..., Tensor]


def pair(basis: str = "chebyshev", squash: str | None = "tanh") -> tuple[Function, Function]:
    """Ours and the oracle, as functions of x, coef and bias."""
    return (
        lambda x, coef, bias: autograd.kan(x, coef, bias, basis, squash, "torch"),
        lambda x, coef, bias: oracle.kan(x, coef, bias, basis, squash),
    )


def inputs_of(seed: int = 0, batch: int = 5, degree: int = DEGREE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, N_IN), (degree, N_IN, N_OUT), (N_OUT,))
    return [torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]


def summed(function: Function) -> Function:
    """A scalar that tells the outputs apart, and is not linear in them."""

    def total(*operands: Tensor) -> Tensor:
        values = function(*operands)
        return (values**2 * torch.linspace(0.5, 1.5, values.shape[-1], dtype=values.dtype)).sum()

    return total


def assert_same(ours: Any, plain: Any) -> None:
    """Equal to rounding in float64, on the scale of the largest number."""
    ours, plain = tree_leaves(ours), tree_leaves(plain)
    assert len(ours) == len(plain)
    for mine, theirs in zip(ours, plain, strict=True):
        assert mine.shape == theirs.shape
        scale = float(theirs.detach().abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11 * max(1.0, scale))


def squares(parts: Any) -> Tensor:
    return torch.stack([(part**2).sum() for part in parts]).sum()


def leaves(seed: int = 0, **sizes: int) -> list[Tensor]:
    return [operand.requires_grad_() for operand in inputs_of(seed, **sizes)]


# --- derivatives ---


@pytest.mark.parametrize("degree", [0, 1, 4])
@pytest.mark.parametrize(("basis", "squash"), PAIRS)
def test_gradcheck(basis, squash, degree):
    ours, plain = pair(basis, squash)
    inputs = leaves(degree=degree)
    assert_same(ours(*inputs), plain(*inputs))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)


@pytest.mark.parametrize("needed", [some for n in (1, 2) for some in itertools.combinations(ALL, n)])
@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_some_operands(needed, create_graph):
    found = []
    for function in pair():
        inputs = inputs_of()
        for i in needed:
            inputs[i].requires_grad_()
        wanted = [inputs[i] for i in needed]
        first = torch.autograd.grad(summed(function)(*inputs), wanted, create_graph=create_graph)
        second = torch.autograd.grad(squares(first), wanted) if create_graph else ()
        found.append((first, second))
    assert_same(*found)


def test_only_what_is_needed_is_computed(monkeypatch):
    calls = []
    run = operators.kan_backward
    monkeypatch.setattr(operators, "kan_backward", lambda *args: calls.append(args[-1]) or run(*args))
    for needed, wants in (((0,), (True, False)), ((1,), (False, True)), ((2,), None), ((0, 1, 2), (True, True))):
        inputs = inputs_of()
        for i in needed:
            inputs[i].requires_grad_()
        calls.clear()
        pair()[0](*inputs).sum().backward()
        assert [(call.x, call.coef) for call in calls] == ([] if wants is None else [wants])


def test_only_operands_are_saved():
    inputs = leaves()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: saved.append(part) or part, lambda part: part):
        pair()[0](*inputs)
    assert {part.data_ptr() for part in saved} == {inputs[0].data_ptr(), inputs[1].data_ptr()}


@pytest.mark.parametrize(("basis", "squash"), PAIRS)
def test_transforms(basis, squash):
    ours, plain = pair(basis, squash)
    inputs, tangents = tuple(inputs_of()), tuple(inputs_of(1))
    for of in (
        lambda f: grad(summed(f), ALL)(*inputs),
        lambda f: jvp(f, inputs, tangents),
        lambda f: jacrev(f, ALL)(*inputs),
        lambda f: jacfwd(f, ALL)(*inputs),
        lambda f: hessian(summed(f), ALL)(*inputs),
        lambda f: jacrev(jacrev(summed(f), ALL), ALL)(*inputs),
        lambda f: jvp(grad(summed(f), ALL), inputs, tangents),
    ):
        assert_same(of(ours), of(plain))


def test_forward_mode_of_a_backward():
    found = []
    for function in pair():
        inputs = leaves()
        value = function(*inputs)
        with forward_ad.dual_level():
            upstream = forward_ad.make_dual(torch.ones_like(value), torch.full_like(value, 2.0))
            gradients = torch.autograd.grad(value, inputs, upstream)
            found.append([forward_ad.unpack_dual(gradient).tangent for gradient in gradients])
    assert_same(*found)


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_in_batches(create_graph):
    upstream = torch.randn(6, 5, N_OUT, dtype=F64)
    found = []
    for function in pair():
        inputs = leaves()
        options: Any = {"is_grads_batched": True, "create_graph": create_graph}
        found.append(torch.autograd.grad(function(*inputs), inputs, upstream, **options))
    assert_same(*found)


def test_functional_derivatives_of_torch_autograd():
    ours, plain = pair()
    inputs = tuple(inputs_of())
    of: Any = torch.autograd.functional
    assert_same(of.jacobian(ours, inputs, vectorize=True), of.jacobian(plain, inputs))
    assert_same(of.hessian(summed(ours), inputs, vectorize=True), of.hessian(summed(plain), inputs))


def test_second_derivatives_under_hooks_of_saved_tensors():
    found = []
    for function in pair():
        inputs = leaves()
        with torch.autograd.graph.save_on_cpu():
            first = torch.autograd.grad(summed(function)(*inputs), inputs, create_graph=True)
            found.append(torch.autograd.grad(squares(first), inputs))
    assert_same(*found)


# --- vmap ---


@pytest.mark.parametrize("batch", [0, 1, 4])
@pytest.mark.parametrize(
    "dims",
    [dims for dims in itertools.product((None, 0), repeat=3) if any(dim is not None for dim in dims)] + [(1, 2, 1)],
)
def test_vmap(dims, batch):
    stacked = [
        operand[0] if dim is None else torch.stack(operand, dim)
        for operand, dim in zip(zip(*(inputs_of(seed, batch) for seed in range(3)), strict=True), dims, strict=True)
    ]
    ours, plain = pair()
    for of in (
        lambda f: vmap(f, dims)(*stacked),
        lambda f: vmap(grad(summed(f), ALL), dims)(*stacked),
        lambda f: grad(lambda *o: (vmap(f, dims)(*o) ** 2).sum(), ALL)(*stacked),
        lambda f: vmap(hessian(summed(f), 1), dims)(*stacked),
    ):
        assert_same(of(ours), of(plain))


def test_nested_vmap():
    x = torch.randn(2, 3, 5, N_IN, dtype=F64)
    coef = torch.randn(2, DEGREE, N_IN, N_OUT, dtype=F64)
    bias = torch.randn(3, N_OUT, dtype=F64)
    ours, plain = (vmap(vmap(function, (0, None, 0)), (0, 0, None)) for function in pair())
    assert_same(ours(x, coef, bias), plain(x, coef, bias))


def test_gradients_an_example():
    x, coef, bias = inputs_of()
    ours, plain = (lambda coef, bias, row, f=function: summed(f)(row.unsqueeze(0), coef, bias) for function in pair())
    for wanted in ((0, 1), (0,), (1,)):
        of = [vmap(grad(function, wanted), (None, None, 0))(coef, bias, x) for function in (ours, plain)]
        assert_same(*of)


def test_ensembles():
    layers = [PolynomialKAN(N_IN, N_OUT, DEGREE).double() for _ in range(3)]
    parameters, buffers = stack_module_state(layers)  # pyright: ignore[reportArgumentType]
    x = inputs_of()[0]

    def call(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return functional_call(layers[0], (parameters, buffers), (x,))

    values = vmap(call, (0, 0, None))(parameters, buffers, x)
    assert_same(list(values), [layer(x) for layer in layers])
    (values**2).sum().backward()
    for i, layer in enumerate(layers):
        (layer(x) ** 2).sum().backward()
        assert_same(parameters["coef"].grad[i], layer.coef.grad)
        assert_same(parameters["bias"].grad[i], layer.bias.grad)


# --- autocast ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_operands_as_linear_does(dtype):
    layer, linear = PolynomialKAN(N_IN, N_OUT, DEGREE), torch.nn.Linear(N_IN, N_OUT)
    with torch.no_grad():
        layer.coef.normal_()
    x = inputs_of()[0].float().requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        values = layer(x)
        assert values.dtype == linear(x).dtype == dtype
        # A second derivative, too, computes in float32.
        first = torch.autograd.grad(values.float().sum(), (x, layer.coef), create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), layer.coef)[0]
    assert first[0].dtype == first[1].dtype == second.dtype == torch.float32
    cast = [part.to(dtype).double().requires_grad_() for part in (x, layer.coef, layer.bias)]
    truth = oracle.kan(cast[0], cast[1], cast[2], "chebyshev", "tanh")
    assert_rounded(values, truth, dtype)
    exact = torch.autograd.grad(truth.sum(), cast[:2], create_graph=True)
    for part, whole in zip(first, exact, strict=True):
        assert_rounded(part, whole, dtype)


def assert_rounded(result: Tensor, truth: Tensor, dtype: torch.dtype) -> None:
    """One rounding to a half type, and float32 noise."""
    allowed = truth.abs() * torch.finfo(dtype).eps / 2 + 1e-5 * truth.abs().max()
    assert ((result.double() - truth).abs() <= allowed).all()


def test_autocast_leaves_float64():
    inputs = inputs_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_same(pair()[0](*inputs), pair()[1](*inputs))


def test_autocast_does_not_reach_transforms():
    """In forward mode the formula runs, and its products must not be cast."""
    x, coef, bias = (operand.float() for operand in inputs_of())

    def of(x: Tensor) -> Tensor:
        return autograd.kan(x, coef, bias, "chebyshev", "tanh", "torch")

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = jvp(of, (x,), (torch.ones_like(x),))
    x, coef, bias = (operand.bfloat16().double() for operand in (x, coef, bias))
    exact = jvp(lambda x: oracle.kan(x, coef, bias, "chebyshev", "tanh"), (x,), (torch.ones_like(x),))
    for part, whole in zip(found, exact, strict=True):
        assert_rounded(part, whole, torch.bfloat16)


# --- compilers ---


def _network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        PolynomialKAN(N_IN, 6, DEGREE), PolynomialKAN(6, N_OUT, 2, basis="legendre", squash="algebraic")
    )


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.compiler)])
def test_a_training_step_compiles_to_one_graph(backend, dynamic):
    torch._dynamo.reset()  # sizes of other tests would count
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    plain = _network()
    network: Any = torch.compile(_network(), fullgraph=True, dynamic=dynamic, backend=counter)
    for batch in (5, 7, 9):
        x = inputs_of(batch=batch)[0].float()
        found = []
        for model in (network, plain):
            leaf = x.clone().requires_grad_()
            model.zero_grad()
            values = model(leaf)
            values.square().mean().backward()
            found.append((values, leaf.grad, *(part.grad for part in model.parameters())))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert counter.frame_count <= (1 if dynamic else 2)  # None: one for the first size, one for all


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_compile_under_autocast(dtype):
    plain: Any = _network()
    network: Any = torch.compile(_network(), fullgraph=True, backend="aot_eager")
    x = inputs_of()[0].float()
    found = []
    for model in (network, plain):
        with torch.autocast("cpu", dtype=dtype):
            values = model(x)
        values.float().sum().backward()
        found.append((values, *(part.grad for part in model.parameters())))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    "of",
    [
        lambda f: grad(summed(f), ALL),
        lambda f: hessian(summed(f), 1),
        lambda f: jacfwd(f, 0),
        lambda f: lambda *inputs: jvp(f, inputs, inputs),
        lambda f: lambda x, coef, bias: vmap(f, (0, None, None))(x.unsqueeze(1), coef, bias),
    ],
    ids=["grad", "hessian", "jacfwd", "jvp", "vmap"],
)
def test_compile_around_a_transform(of):
    ours, plain = pair()
    torch._dynamo.reset()  # transforms share functions, whose variants are limited in number
    compiled = torch.compile(of(ours), fullgraph=True, backend="aot_eager")
    assert_same(compiled(*inputs_of()), of(plain)(*inputs_of()))


@pytest.mark.parametrize("needed", ALL)
def test_a_second_derivative_of_what_is_compiled_raises(needed):
    inputs = inputs_of()
    inputs[needed].requires_grad_()
    compiled = torch.compile(pair()[0], fullgraph=True, backend="aot_eager")
    (first,) = torch.autograd.grad(summed(compiled)(*inputs), inputs[needed], create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad((first**2).sum(), inputs[needed], allow_unused=True)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    network = _network()
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (inputs_of()[0].float(),), dynamic_shapes=shapes, strict=strict)
    assert not any("polyfit" in str(node.target) for node in program.graph.nodes)
    x = inputs_of(batch=11)[0].float()
    torch.testing.assert_close(program.module()(x), network(x))


def test_make_fx_sees_operators():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(pair()[0])(*inputs_of())
    assert any("polyfit.kan" in str(node.target) for node in graph.graph.nodes)
    assert_same(graph(*inputs_of(3)), pair()[1](*inputs_of(3)))
