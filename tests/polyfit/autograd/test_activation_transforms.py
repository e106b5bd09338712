"""The elementwise polynomial of each group of channels under autograd: derivatives, transforms, layouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from oracle import NUMPY_CLASSES, continued
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vmap
from torch.utils._pytree import tree_leaves

from bench.layers import Step
from polyfit import autograd, bases
from polyfit.formula import OUTSIDE, Model
from polyfit.nn import Polynomial

F64 = torch.float64
DOMAIN = (-1.5, 1.0)
SHAPES = {
    "one": (1, 1, 40),
    "one, outer": (3, 1, 7),
    "channels": (9, 4, 1),
    "planes": (3, 4, 5),
    "many rows": (150, 3, 1),
    "many short runs": (70, 2, 3),
    "long runs": (2, 2, 40),
}


def model_of(basis: str, outside: str, domain: tuple[float, float] | None = DOMAIN, dtype: torch.dtype = F64) -> Model:
    return Model(basis, bases.affine_map(domain, bases.BASES[basis], dtype), outside=outside)


def ours(x: Tensor, coef: Tensor, basis: str = "chebyshev", outside: str = "linear", impl: str = "torch") -> Tensor:
    return autograd.activation(x, coef, model_of(basis, outside), impl)


def plain(x: Tensor, coef: Tensor, basis: str = "chebyshev", outside: str = "linear") -> Tensor:
    return continued(x, coef, DOMAIN, basis, outside)


def operands(shape: tuple[int, ...], degree: int = 4, seed: int = 0, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """x (outer, groups, inner), inside and outside of the domain, and coef (groups, degree + 1)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=F64) * 1.5
    coef = torch.randn(shape[1], degree + 1, generator=generator, dtype=F64)
    return x.to(dtype), coef.to(dtype)


def assert_same(mine: Any, theirs: Any, tolerance: float = 1e-11) -> None:
    mine, theirs = tree_leaves(mine), tree_leaves(theirs)
    assert len(mine) == len(theirs)
    for ours, plain in zip(mine, theirs, strict=True):
        assert ours.shape == plain.shape
        scale = max(1.0, float(plain.detach().abs().max())) if plain.numel() else 1.0
        torch.testing.assert_close(ours, plain, rtol=tolerance, atol=tolerance * scale)


def with_gradients(function: Callable[..., Tensor], x: Tensor, coef: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    leaves = [x.detach().requires_grad_(), coef.detach().requires_grad_()]
    value = function(*leaves)
    return value, *torch.autograd.grad(value, leaves, upstream, allow_unused=True, materialize_grads=True)


# --- values and derivatives ---


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("degree", [0, 1, 2, 5, 8, 20])
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_values_and_gradients(basis, outside, degree):
    for shape in SHAPES.values():
        x, coef = operands(shape, degree)
        if degree > 8:  # beyond, the oracle's powers cancel
            x, coef = x.clamp(*DOMAIN) * 0.3, coef * 0.1
        upstream = torch.randn(shape, dtype=F64)
        function = functools.partial(plain, basis=basis, outside=outside)
        found = with_gradients(functools.partial(ours, basis=basis, outside=outside), x, coef, upstream)
        assert_same(found, with_gradients(function, x, coef, upstream), 1e-11 if degree <= 8 else 1e-9)


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("shape", ["one, outer", "channels", "planes"])
def test_gradcheck(shape, outside):
    x, coef = (operand.requires_grad_() for operand in operands(SHAPES[shape], 3))
    function = functools.partial(ours, outside=outside)
    assert torch.autograd.gradcheck(function, (x, coef))
    assert torch.autograd.gradgradcheck(function, (x, coef))


@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_second_derivatives(basis):
    for shape in ("one", "planes"):
        results = []
        for function in (ours, plain):
            x, coef = (operand.requires_grad_() for operand in operands(SHAPES[shape]))
            value = function(x, coef, basis)
            first = torch.autograd.grad((value**2).sum(), (x, coef), create_graph=True)
            results.append((first, torch.autograd.grad((first[0] ** 2).sum() + (first[1] ** 2).sum(), (x, coef))))
        assert_same(*results)


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("basis", NUMPY_CLASSES)
def test_the_ends_of_the_window_are_inside(basis, outside):
    lo, hi = map(float, NUMPY_CLASSES[basis].window)
    model = model_of(basis, outside, None)
    x = torch.tensor([lo, hi], dtype=F64).view(1, 1, 2).requires_grad_()
    coef = torch.tensor([[0.5, 1.0, -2.0, 0.25]], dtype=F64)
    series = NUMPY_CLASSES[basis](coef[0].numpy(), domain=[lo, hi], window=[lo, hi])
    for operand in (x, torch.cat((x, x)).expand(2, 1, 2)):
        values = autograd.activation(operand, coef.expand(operand.shape[1], -1), model, "torch")
        (slopes,) = torch.autograd.grad(values.sum(), operand)
        torch.testing.assert_close(values[0, 0], torch.from_numpy(series(operand[0, 0].detach().numpy())))
        torch.testing.assert_close(slopes[0, 0], torch.from_numpy(series.deriv()(operand[0, 0].detach().numpy())))


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("outside", OUTSIDE)
def test_what_is_not_finite(outside, groups):
    coef = torch.tensor([[0.5, 1.0, -0.5, 0.25]], dtype=F64).expand(groups, -1).contiguous().requires_grad_()
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.5], dtype=F64)
    x = x.view(4, 1, 1).expand(4, groups, 1).contiguous().requires_grad_()
    values = ours(x, coef, outside=outside)
    (slopes,) = torch.autograd.grad(values.sum(), x)
    for column in values.detach().squeeze(2).t():
        assert column[0].isnan()
        expected = plain(x.detach()[3:, :1], coef.detach()[:1], outside=outside)
        torch.testing.assert_close(column[3:], expected.flatten())
        if outside == "clamp":
            ends = plain(torch.tensor(DOMAIN, dtype=F64).view(1, 1, 2), coef.detach()[:1], outside="clamp")
            torch.testing.assert_close(column[1:3], ends.flatten().flip(0))
        elif outside == "linear":  # slopes at the ends of 1 - 2 + 9 / 4 and 1 + 2 + 9 / 4
            assert column[1] == float("inf")
            assert column[2] == -float("inf")
    assert slopes[0].isnan().all()
    if outside != "extend":
        assert slopes[1:].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 1), (4, 3, 0), (1, 1, 0), (0, 1, 5)])
def test_no_elements(shape):
    x, coef = torch.empty(shape, requires_grad=True), torch.randn(shape[1], 4, requires_grad=True)
    values = autograd.activation(x, coef, model_of("chebyshev", "linear", dtype=torch.float32), "torch")
    values.sum().backward()
    assert values.shape == x.grad.shape == x.shape  # pyright: ignore[reportOptionalMemberAccess]
    assert coef.grad is not None
    assert torch.equal(coef.grad, torch.zeros_like(coef))


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("wanted", ["x", "coef"])
@pytest.mark.parametrize("shape", SHAPES)
def test_only_what_needs_a_gradient(shape, wanted):
    x, coef = operands(SHAPES[shape])
    upstream = torch.randn(x.shape, dtype=F64)
    leaf = (x if wanted == "x" else coef).requires_grad_()
    (mine,) = torch.autograd.grad(ours(x, coef), leaf, upstream)
    (theirs,) = torch.autograd.grad(plain(x, coef), leaf, upstream)
    assert_same(mine, theirs)


# --- dtypes ---


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes(dtype, wide, shape):
    x, coef = operands(SHAPES[shape], 5, dtype=dtype)
    coef = coef.float() if wide else coef
    upstream = torch.randn(x.shape, dtype=dtype)
    model = model_of("chebyshev", "linear", dtype=torch.float32)
    found = with_gradients(lambda x, coef: autograd.activation(x, coef, model, "torch"), x, coef, upstream)
    exact = with_gradients(plain, x.double(), coef.double(), upstream.double())
    assert [part.dtype for part in found] == [dtype, dtype, coef.dtype]
    # Computed in float32, rounded once. The slopes of T_5 grow to 25, which takes the error of t along.
    for mine, theirs, size in zip(found, exact, (4.0, 25.0, 4.0 * x.numel() ** 0.5), strict=True):
        scale = float(theirs.detach().abs().max())
        torch.testing.assert_close(
            mine.double(), theirs, rtol=torch.finfo(mine.dtype).eps, atol=1e-6 * max(scale, size)
        )


@pytest.mark.parametrize("channels", [1, 6])
def test_autocast_leaves_it_alone(channels):
    layer = Polynomial(3, channels, domain=(-4, 4), init="silu")
    x = torch.randn(5, 6, dtype=torch.bfloat16, requires_grad=True)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.float16):
        value = layer(x)
        assert value.dtype == torch.bfloat16
        value.sum().backward()
        assert layer(x.float()).dtype == torch.float32
    assert torch.equal(value, expected)
    assert layer.coef.grad.dtype == torch.float32  # pyright: ignore[reportOptionalMemberAccess]


# --- layouts ---


def _upstreams(x: Tensor) -> dict[str, Tensor]:
    shape = x.shape
    return {
        "of a sum": torch.ones((), dtype=x.dtype).expand(shape),
        "of a mean over axes": torch.randn(shape[0], *(1,) * (x.dim() - 1), dtype=x.dtype).expand(shape),
        "transposed": torch.randn(shape[::-1], dtype=x.dtype).permute(*reversed(range(x.dim()))),
        "misaligned": torch.randn(x.numel() + 1, dtype=x.dtype)[1:].view(shape),
        "every other": torch.randn(*shape[:-1], 2 * shape[-1], dtype=x.dtype)[..., ::2],
        "negated lazily": torch.complex(x, torch.randn(shape, dtype=x.dtype)).conj().imag,
    }


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "sliced": lambda x: torch.cat((x, x), 3)[..., ::2].copy_(x),
    "misaligned": lambda x: torch.cat((x.flatten()[:1], x.flatten()))[1:].view(x.shape),
    "expanded": lambda x: x[:1].expand(x.shape),
}


@pytest.mark.usefixtures("any_activation_pass")
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("channel_dim", [1, -1, 0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, channel_dim, groups):
    layer = Polynomial(3, 6, num_groups=groups, channel_dim=channel_dim, domain=DOMAIN, init="identity").double()
    with torch.no_grad():
        layer.coef.add_(torch.randn_like(layer.coef))
    x = LAYOUTS[layout](torch.randn(6, 6, 4, 6, dtype=F64) * 1.5)
    moved = x.movedim(channel_dim, 1)
    for upstream in _upstreams(x).values():
        found = with_gradients(lambda x, _: layer(x), x, layer.coef, upstream)[:2]
        own = layer.coef.detach().reshape(groups, -1).repeat_interleave(6 // groups, 0)
        canonical = moved.flatten(2).detach().requires_grad_()
        expected = plain(canonical, own)
        (slopes,) = torch.autograd.grad(expected, canonical, upstream.movedim(channel_dim, 1).flatten(2))
        for mine, theirs in zip(found, (expected, slopes), strict=True):
            assert_same(mine, theirs.view(moved.shape).movedim(1, channel_dim))


# --- transforms ---


@pytest.mark.parametrize("dims", [(0, 0), (0, None), (None, 0), (2, 1), (-1, None)])
@pytest.mark.parametrize("shape", ["one", "channels", "planes", "one, outer"])
def test_vmap(shape, dims):
    examples = [operands(SHAPES[shape], seed=seed) for seed in (1, 2, 3)]
    given = [
        examples[0][i] if dim is None else torch.stack([example[i] for example in examples], dim)
        for i, dim in enumerate(dims)
    ]
    for of in (
        lambda f: vmap(f, dims),
        lambda f: vmap(grad(lambda x, c: (f(x, c) ** 2).sum(), (0, 1)), dims),
        lambda f: vmap(grad(lambda x, c: (f(x, c) ** 2).sum()), dims),
        lambda f: grad(lambda x, c: (vmap(f, dims)(x, c) ** 2).sum(), (0, 1)),
    ):
        assert_same(of(ours)(*given), of(plain)(*given))


def test_nested_vmap():
    xs = torch.stack([operands((2, 3, 4), seed=seed)[0] for seed in (1, 2)])
    coefs = torch.stack([operands((2, 3, 4), seed=seed)[1] for seed in (3, 4, 5)])

    def grid(function: Callable[..., Any]) -> Callable[..., Any]:
        return vmap(vmap(function, (None, 0)), (0, None))

    assert_same(grid(ours)(xs, coefs), grid(plain)(xs, coefs))
    of_squares = [grid(grad(lambda x, c, f=f: (f(x, c) ** 2).sum(), (0, 1)))(xs, coefs) for f in (ours, plain)]
    assert_same(*of_squares)


@pytest.mark.parametrize("outside", OUTSIDE)
def test_forward_mode_and_hessians(outside):
    x, coef = operands((2, 3, 2), 3)
    tangents = operands((2, 3, 2), 3, seed=7)
    mine, theirs = (functools.partial(function, outside=outside) for function in (ours, plain))
    assert_same(jvp(mine, (x, coef), tangents), jvp(theirs, (x, coef), tangents))
    assert_same(jacfwd(mine, (0, 1))(x, coef), jacrev(theirs, (0, 1))(x, coef))
    assert_same(jacrev(mine, (0, 1))(x, coef), jacrev(theirs, (0, 1))(x, coef))
    of_squares = [hessian(lambda x, c, f=f: (f(x, c) ** 2).sum(), (0, 1))(x, coef) for f in (mine, theirs)]
    assert_same(*of_squares)


def test_gradients_in_batches():
    x, coef = (operand.requires_grad_() for operand in operands((3, 2, 2)))
    upstreams = torch.randn(5, 3, 2, 2, dtype=F64)
    found, expected = (
        torch.autograd.grad(function(x, coef), (x, coef), upstreams, is_grads_batched=True)
        for function in (ours, plain)
    )
    assert_same(found, expected)


def test_per_sample_gradients_and_ensembles():
    layers = [Polynomial(3, 4, domain=DOMAIN).double() for _ in range(3)]
    for layer in layers:
        with torch.no_grad():
            layer.coef.add_(torch.randn_like(layer.coef))
    parameters, buffers = stack_module_state(layers)  # pyright: ignore[reportArgumentType]
    x = torch.randn(5, 4, dtype=F64)

    def call(parameters: Any, buffers: Any, x: Tensor) -> Tensor:
        return functional_call(layers[0], (parameters, buffers), (x,))

    values = vmap(call, (0, 0, None))(parameters, buffers, x)
    assert_same(values, torch.stack([layer(x) for layer in layers]))
    own, names = dict(layers[0].named_parameters()), list(parameters)

    def loss(parameters: Any, row: Tensor) -> Tensor:
        return (call(parameters, {}, row.unsqueeze(0)) ** 2).sum()

    rows = vmap(grad(loss), (None, 0))(own, x)
    expected = [torch.autograd.grad((layers[0](row.unsqueeze(0)) ** 2).sum(), layers[0].coef)[0] for row in x]
    assert_same(rows[names[0]], torch.stack(expected))


# --- tracers ---


def test_custom_operators_are_well_formed():
    x, coef = operands((3, 4, 5), dtype=torch.float32)
    for dtype, mapping, outside in ((torch.float32, [0.5, 0.25, 0.0], "linear"), (torch.float16, None, "clamp")):
        rest = (coef, mapping, "chebyshev", outside, "torch")
        torch.library.opcheck(torch.ops.polyfit.activate, (x.to(dtype), *rest))
        for wants in ((True, True), (True, False), (False, True)):
            arguments = (torch.randn(3, 4, 5).to(dtype), x.to(dtype), *rest, *wants)
            torch.library.opcheck(torch.ops.polyfit.activate_backward, arguments)


def test_meta_and_fake_tensors():
    layer = Polynomial(3, 4, domain=DOMAIN).to("meta")
    x = torch.empty(5, 4, 2, device="meta", dtype=torch.bfloat16, requires_grad=True)
    value = layer(x)
    value.sum().backward()
    assert (value.shape, value.dtype, value.device.type) == (x.shape, torch.bfloat16, "meta")
    assert x.grad is not None
    assert layer.coef.grad is not None
    with torch._subclasses.FakeTensorMode():
        x = torch.empty(5, 4, 2, dtype=torch.float16, requires_grad=True)
        values = autograd.activation(x, torch.empty(4, 3), model_of("power", "clamp", dtype=torch.float32), "torch")
        (slopes,) = torch.autograd.grad(values.sum(), x)
    assert (values.shape, values.dtype, slopes.dtype) == (x.shape, torch.float16, torch.float16)


@pytest.fixture
def _fresh_dynamo():
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("outside", OUTSIDE)
@pytest.mark.parametrize("channels", [1, 6])
def test_a_compiled_step_of_any_batch_takes_two_graphs(channels, outside):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    layer = Polynomial(3, channels, domain=DOMAIN, outside=outside)

    @torch.compile(fullgraph=True, backend=counter)
    def step(x: Tensor) -> Tensor:
        return (layer(x) ** 2).sum()

    for batch in (5, 7, 11, 64, 100):
        x = torch.randn(batch, 6, 3, requires_grad=True)
        value, expected = step(x), (layer(x) ** 2).sum()
        torch.testing.assert_close(value, expected)
        wanted = (x, layer.coef)
        for mine, theirs in zip(torch.autograd.grad(value, wanted), torch.autograd.grad(expected, wanted), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4)
    assert counter.frame_count <= 2


@pytest.mark.usefixtures("_fresh_dynamo")
@pytest.mark.parametrize("wanted", ["x", "coef"])
def test_a_second_derivative_of_what_is_compiled_raises(wanted):
    x, coef = operands((3, 2, 2))
    leaf = (x if wanted == "x" else coef).requires_grad_()
    value = torch.compile(ours, fullgraph=True, backend="aot_eager")(x, coef)
    (first,) = torch.autograd.grad((value**2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad((first**2).sum(), leaf)


@pytest.mark.usefixtures("_fresh_dynamo")
def test_compile_around_transforms():
    x, coef = operands((3, 2, 2))
    examples = torch.stack((x, x + 1.0))
    for of, given in (
        (lambda f: grad(lambda x, c: (f(x, c) ** 2).sum(), (0, 1)), (x, coef)),
        (lambda f: jacfwd(f, 1), (x, coef)),
        (lambda f: vmap(f, (0, None)), (examples, coef)),
        (lambda f: vmap(grad(lambda x, c: (f(x, c) ** 2).sum(), 1), (0, None)), (examples, coef)),
    ):
        assert_same(torch.compile(of(ours), fullgraph=True, backend="aot_eager")(*given), of(plain)(*given))


# --- memory ---


@pytest.mark.parametrize("channels", [1, 256])
def test_the_peak_of_memory_is_that_of_silu(channels, set_sizes):
    """What comes on top is the buffers of a chunk, here of 2**15 elements; they grow with the number of threads."""
    n_threads = torch.get_num_threads()
    set_sizes(activation_of_a_thread=2**15 // n_threads, chunk_of_a_thread=2**15 // n_threads)
    x = torch.randn(1024, 256, 4, 2, requires_grad=True)
    upstream = torch.randn(x.shape)

    def peak_of(layer: torch.nn.Module) -> int:
        step = Step(layer, x, upstream, layer.parameters())
        step()
        return step.peak()

    reference = peak_of(torch.nn.SiLU())
    assert reference == 2 * x.nbytes
    assert peak_of(Polynomial(5, channels, domain=(-4, 4), init="silu")) < 1.1 * reference


@pytest.mark.parametrize("shape", SHAPES)
def test_only_operands_are_saved(shape):
    x, coef = (operand.requires_grad_() for operand in operands(SHAPES[shape]))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        ours(x, coef)
    assert sorted(tensor.data_ptr() for tensor in saved) == sorted((x.data_ptr(), coef.data_ptr()))
