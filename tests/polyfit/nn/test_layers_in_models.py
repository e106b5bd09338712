"""The modules as parts of models: what torch does with a model, it does with these."""

from __future__ import annotations

import copy
import datetime
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain_layers import F64, PlainPolynomial
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from polyfit.nn import Polynomial, PolynomialKAN, PolynomialRegression, parameter_groups


def network(dtype: torch.dtype = F64) -> nn.Sequential:
    """A convolution with a polynomial a channel, a line with one polynomial, a KAN layer."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        Polynomial(3, 4, domain=(-4, 4), init="silu"),
        nn.Flatten(),
        nn.Linear(16, 8),
        Polynomial(5),
        PolynomialKAN(8, 3, 3),
    ).to(dtype)


def batch(n_samples: int = 12, dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n_samples, 1, 4, 4, dtype=F64, generator=generator)
    return x.to(dtype), torch.randint(3, (n_samples,), generator=generator)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(model(x), y)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def assert_same(found: list[Tensor], expected: list[Tensor], rtol: float = 1e-10) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol * float(theirs.detach().abs().max()))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    model, (x, y) = network(), batch()
    expected = gradients(model, x, y)
    values = checkpoint(model, x.requires_grad_(), use_reentrant=reentrant)
    assert isinstance(values, Tensor)
    nn.functional.cross_entropy(values, y).backward()
    assert_same([parameter.grad for parameter in model.parameters()], expected)  # pyright: ignore[reportArgumentType]


def _replica(rank: int, folder: str) -> None:
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout)
    x, y = batch()
    ddp = nn.parallel.DistributedDataParallel(network())
    nn.functional.cross_entropy(ddp(x[rank::2]), y[rank::2]).backward()
    regression = nn.parallel.DistributedDataParallel(PolynomialRegression(3, dtype=F64))
    regression(x[rank::2].flatten(), x[rank::2].flatten().sin()).backward()
    if rank == 0:
        found = [parameter.grad for parameter in [*ddp.parameters(), *regression.parameters()]]
        torch.save(found, f"{folder}/gradients.pt")
    dist.barrier()  # who leaves first would take the other's connection along
    dist.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    mp.spawn(_replica, (str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    x, y = batch()
    regression = PolynomialRegression(3, dtype=F64)
    regression.loss(x.flatten(), x.flatten().sin()).backward()
    assert regression.coef.grad is not None
    assert_same(torch.load(tmp_path / "gradients.pt"), [*gradients(network(), x, y), regression.coef.grad])


# --- export ---

EXPORTED: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "one polynomial": lambda: (Polynomial(5, domain=(-2, 2), init="silu"), torch.randn(4, 7) * 3),
    "a polynomial a channel": lambda: (Polynomial(4, 6, basis="legendre", outside="clamp"), torch.randn(4, 6, 5) * 2),
    "groups": lambda: (Polynomial(3, 6, num_groups=3, channel_dim=-1), torch.randn(4, 5, 6) * 2),
    "KAN": lambda: (PolynomialKAN(6, 3, 4, squash="algebraic"), torch.randn(4, 6)),
    "regression": lambda: (PolynomialRegression(3, basis="hermite", domain=(-2, 2)), torch.randn(30)),
    "network": lambda: (network(torch.float32), torch.randn(4, 1, 4, 4)),
}


def exported(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A module with some coefficients, an example, and another batch."""
    torch.manual_seed(0)
    module, x = EXPORTED[name]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval(), x, torch.cat([x, x.flip(0), x])


# Another order of the sums of a few dozen terms in float32.
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("name", EXPORTED)
def test_export(name):
    module, x, longer = exported(name)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x), **CLOSE)
    batch_axis = {0: torch.export.Dim("batch", min=2, max=10_000)}
    program = torch.export.export(module, (x,), dynamic_shapes=(batch_axis,))
    torch.testing.assert_close(program.module()(longer), module(longer), **CLOSE)


@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("name", EXPORTED)
def test_onnx(name, is_dynamic, tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    module, x, longer = exported(name)
    axes = ({0: torch.export.Dim("batch", min=2, max=10_000)},) if is_dynamic else None
    path = str(tmp_path / "module.onnx")
    torch.onnx.export(module, (x,), path, dynamo=True, dynamic_shapes=axes, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for values in (x, longer) if is_dynamic else (x,):
        (found,) = session.run(None, {session.get_inputs()[0].name: values.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(values).detach(), **CLOSE)


@pytest.mark.parametrize("layer", [Polynomial(3), PolynomialKAN(4, 2, 3)])
def test_symbolic_traces_are_refused(layer):
    with pytest.raises(TypeError, match=r"x is of torch\.fx\.symbolic_trace, .*; use torch\.export\.export or"):
        torch.fx.symbolic_trace(nn.Sequential(layer))


# --- torch.compile ---


@pytest.mark.compiler
@pytest.mark.skipif(
    not hasattr(torch._dynamo.config, "trace_autograd_ops"),
    reason=f"the compiler of torch {torch.__version__} cannot trace torch.autograd.grad (it lacks trace_autograd_ops)",
)
def test_a_training_step_is_one_graph():
    """Forward, loss, backward and the update; torch.optim breaks the graph itself before its step."""
    x, y = torch.randn(30, 6), torch.randint(3, (30,))
    torch.manual_seed(0)
    layers = nn.Linear(6, 8), Polynomial(5, 8, domain=(-4, 4), init="silu"), PolynomialKAN(8, 3, 3)
    models = [nn.Sequential(*layers), copy.deepcopy(nn.Sequential(*layers))]

    def train(model: nn.Module, compile: Callable[..., Any]) -> list[float]:
        parameters = list(model.parameters())
        buffers = [torch.zeros_like(parameter) for parameter in parameters]

        def step(x: Tensor, y: Tensor) -> Tensor:
            loss = nn.functional.cross_entropy(model(x), y)
            grads = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for parameter, buffer, grad in zip(parameters, buffers, grads, strict=True):
                    buffer.mul_(0.9).add_(grad)
                    parameter.sub_(buffer, alpha=0.1)
            return loss.detach()

        function = compile(step)
        return [float(function(x, y)) for _ in range(4)]

    expected = train(models[0], lambda step: step)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(trace_autograd_ops=True):
        found = train(models[1], lambda step: torch.compile(step, fullgraph=True))
    assert found == pytest.approx(expected, rel=1e-5)
    assert found[-1] < found[0]
    assert_same(list(models[1].parameters()), list(models[0].parameters()), rtol=1e-4)


@pytest.mark.parametrize("name", [*EXPORTED, "loss of a regression"])
def test_compile_of_each_module(name):
    if name == "loss of a regression":
        module, x, _ = exported("regression")
        operands = (x, x.sin())
    else:
        module, x, _ = exported(name)
        operands = (x,)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")  # without C++, which takes most of the time
    expected, found = module(*operands), compiled(*operands)
    torch.testing.assert_close(found, expected, **CLOSE)
    grad = torch.randn_like(expected)
    parameters = list(module.parameters())
    assert_same(
        list(torch.autograd.grad(found, parameters, grad)), list(torch.autograd.grad(expected, parameters, grad)), 1e-4
    )


def test_compile_of_channels_last_batches_of_changing_size():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Polynomial(3, 4)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
    for n_samples in (2, 3, 7):
        x = torch.randn(n_samples, 3, 6, 7).to(memory_format=torch.channels_last)
        found, expected = compiled(x), module(x)
        torch.testing.assert_close(found, expected, **CLOSE)
        assert found.stride() == expected.stride()


def test_compile_under_autocast():
    model, (x, _) = network(torch.float32), batch(dtype=torch.float32)

    def function(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(x)

    torch._dynamo.reset()
    found = torch.compile(function, fullgraph=True, backend="aot_eager")(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, function(x), rtol=2**-6, atol=2**-6)  # a rounding or two of bfloat16
    found.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


# --- torch.func ---


def test_functional_call_and_gradients_of_each_sample():
    model, (x, y) = network(), batch(5)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        values = torch.func.functional_call(model, parameters, (x.unsqueeze(0),))
        return nn.functional.cross_entropy(values, y.unsqueeze(0))

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(len(x)):
        assert_same([value[i] for value in found.values()], gradients(model, x[i : i + 1], y[i : i + 1]))


@pytest.mark.parametrize(
    "layer", [lambda: Polynomial(4, 3, domain=(-2, 2)), lambda: Polynomial(3), lambda: PolynomialKAN(3, 2, 3)]
)
def test_an_ensemble_by_stack_module_state(layer):
    models = [layer().double() for _ in range(3)]
    for model in models:
        for parameter in model.parameters():
            nn.init.normal_(parameter)
    stacked, buffers = torch.func.stack_module_state(models)  # pyright: ignore[reportArgumentType]
    x = torch.randn(6, 3, dtype=F64)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(models[0], (parameters, buffers), (x,))

    found = torch.func.vmap(call)(stacked, buffers)
    assert_same(list(found.unbind()), [model(x) for model in models])


# --- training ---


def test_groups_of_an_optimizer():
    model = network()
    decayed, kept = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0.0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(parameter)] for parameter in decayed["params"]] == ["0.weight", "3.weight", "5.coef"]
    assert [names[id(parameter)] for parameter in kept["params"]] == ["0.bias", "1.coef", "3.bias", "4.coef", "5.bias"]
    model.requires_grad_(False)
    model.get_parameter("3.weight").requires_grad_(True)
    assert [len(group["params"]) for group in parameter_groups(model, 0.3)] == [1, 0]
    alone = Polynomial(3, 8)
    assert parameter_groups(alone, 0.3)[1]["params"] == [alone.coef]


def test_groups_of_shared_and_of_parametrized_coefficients():
    class Owner(nn.Module):
        def __init__(self, coef: nn.Parameter) -> None:
            super().__init__()
            self.shared = coef

    layer = Polynomial(3, 4)
    decayed, kept = parameter_groups(nn.Sequential(Owner(layer.coef), layer), 0.3)
    assert decayed["params"] == []
    assert kept["params"] == [layer.coef]
    nn.utils.parametrizations.weight_norm(layer, "coef")
    decayed, kept = parameter_groups(nn.Sequential(layer), 0.3)
    assert decayed["params"] == []
    assert len(kept["params"]) == 2


@pytest.mark.parametrize(
    ("model", "weight_decay", "error", "message"),
    [
        (Polynomial(3).parameters(), 0.1, TypeError, "model is generator; pass the module itself"),
        (Polynomial(3), -1, ValueError, "weight_decay=-1 is out of range; pass a finite number from 0 on"),
        (Polynomial(3), "a", TypeError, "weight_decay='a' is not a number"),
    ],
)
def test_groups_of_an_optimizer_that_are_refused(model, weight_decay, error, message):
    with pytest.raises(error, match=message):
        parameter_groups(model, weight_decay)


def test_decay_leaves_the_polynomials_alone():
    model = network()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.5), lr=0.1)
    coef, kernel = model.get_parameter("1.coef"), model.get_parameter("0.weight")
    before = coef.detach().clone(), kernel.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.equal(coef, before[0])
    torch.testing.assert_close(kernel.detach(), 0.95 * before[1])


@pytest.mark.parametrize("rule", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam"])
def test_optimizers_and_clipping(rule):
    """The same steps as those of the layer in plain PyTorch."""
    layer = Polynomial(4, 3, domain=(-2, 2), dtype=F64)
    reference = PlainPolynomial(layer.coef, channel_dim=1, basis="chebyshev", domain=(-2, 2), outside="linear")
    x = torch.randn(50, 3, dtype=F64)
    y = torch.randn(50, 3, dtype=F64)
    for model in (layer, reference):
        optimizer = getattr(torch.optim, rule)(model.parameters(), lr=0.05)
        for _ in range(8):
            optimizer.zero_grad()
            (10 * nn.functional.mse_loss(model(x), y)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    torch.testing.assert_close(layer.coef, reference.coef, rtol=1e-8, atol=1e-8)


def test_training_under_autocast_with_half_activations():
    model, (x, y) = network(torch.float32), batch(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(20):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())
