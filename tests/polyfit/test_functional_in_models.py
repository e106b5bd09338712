"""polyfit as a part of models: autocast, checkpoints, distributed training, copies and pickles, every impl."""

from __future__ import annotations

import copy
import datetime
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import CASES, LOSSES, Case
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import polyfit
from polyfit.backends import inductor, sizes

F64 = torch.float64


class Model(torch.nn.Module):
    """A line and a polynomial of it."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(3, 1, dtype=F64)
        self.coef = torch.nn.Parameter(torch.linspace(-1, 1, 4, dtype=F64))

    def forward(self, features: Tensor, y: Tensor) -> Tensor:
        """The loss."""
        x = self.line(features).squeeze(-1)
        return polyfit.polynomial_loss(x, y, self.coef, loss="huber", basis="legendre", domain=(-4, 4))


def batch(n_samples: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_samples, 3, dtype=F64, generator=generator), torch.randn(
        n_samples, dtype=F64, generator=generator
    )


def gradients(model: torch.nn.Module, *data: Tensor) -> list[Tensor]:
    """Of the loss to all parameters."""
    return list(torch.autograd.grad(model(*data), list(model.parameters())))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant):
    model, (features, y) = Model(), batch()
    plain = gradients(model, features, y)
    features.requires_grad_()  # a reentrant one wants it
    loss = checkpoint(model, features, y, use_reentrant=reentrant)
    assert isinstance(loss, Tensor)
    loss.backward()
    for parameter, expected in zip(model.parameters(), plain, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected)


def test_copies_and_pickles_of_a_model():
    model, data = Model(), batch()
    expected = gradients(model, *data)
    gradients(model, *data)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for mine, theirs in zip(gradients(other, *data), expected, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", LOSSES)
def test_copies_and_pickles_of_losses(name):
    loss = LOSSES[name].loss
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert other == loss
        assert hash(other) == hash(loss)
    rule = polyfit.optimizers.SGD(0.5)
    assert pickle.loads(pickle.dumps(rule)) == copy.deepcopy(rule) == rule


def _replica(rank: int, folder: str) -> None:
    timeout = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timeout)
    torch.manual_seed(0)
    model = Model()
    replica = torch.nn.parallel.DistributedDataParallel(model)
    features, y = batch()
    replica(features[rank::2], y[rank::2]).backward()
    if rank == 0:
        torch.save([parameter.grad for parameter in model.parameters()], f"{folder}/gradients.pt")
    dist.barrier()  # who leaves first would take the other's connection along
    dist.destroy_process_group()


def test_distributed_data_parallel(tmp_path):
    mp.spawn(_replica, (str(tmp_path),), nprocs=2)  # pyright: ignore[reportPrivateImportUsage]
    torch.manual_seed(0)
    expected = gradients(Model(), *batch())
    for mine, theirs in zip(torch.load(tmp_path / "gradients.pt"), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_autocast_brings_operands_to_the_widest_dtype():
    x, coef = torch.randn(30, dtype=torch.bfloat16), torch.randn(4, requires_grad=True)
    y = torch.randn(30)
    expected = polyfit.polynomial_loss(x.float(), y, coef)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = polyfit.polynomial_loss(x, y, coef)
        values = polyfit.polyval(x, coef)
    assert torch.equal(loss, expected)
    assert torch.equal(values, polyfit.polyval(x.float(), coef))
    assert torch.equal(torch.autograd.grad(loss, coef)[0], torch.autograd.grad(expected, coef)[0])
    with pytest.raises(TypeError, match=r"y is torch\.float32 and x is torch\.bfloat16"):
        polyfit.polynomial_loss(x, y, coef)


# --- impl="compile" ---

COMPILED = ["mse, power, one series", "huber, chebyshev, own x", "poisson_nll rate full, legendre, shared x"]


def long_operands(case: Case, n_samples: int, dtype: torch.dtype = F64) -> list[Tensor]:
    """The operands of a case, repeated to many samples."""
    x, y, coef, weight = case.operands()
    times = n_samples // x.shape[-1] + 1
    x, y, weight = (operand.repeat(*(1,) * (operand.dim() - 1), times)[..., :n_samples] for operand in (x, y, weight))
    return [operand.to(dtype).requires_grad_() for operand in (x, y, coef, weight)]


@pytest.mark.compiler
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_loops_give_what_the_chunked_pass_gives(name):
    case = CASES[name]
    for n_samples in (
        2 * sizes.current().compiled_row - 1,
        2 * sizes.current().compiled_row,
        3 * sizes.current().compiled_row + 5,
    ):
        results = []
        for impl in ("compile", "torch"):
            operands = long_operands(case, n_samples)
            x, _, coef, _ = operands
            loss = case.loss_pair[0](*operands, impl=impl).sum()
            values = polyfit.polyval(x, coef, basis=case.basis, domain=(-2, 2), impl=impl)
            results.append(
                (loss, values, *torch.autograd.grad(loss, operands), *torch.autograd.grad(values.sum(), (x, coef)))
            )
        for mine, theirs in zip(*results, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.compiler
def test_compiled_sums_are_as_exact_as_the_chunked_ones():
    n_samples = 1_000_003
    x, y = torch.rand(n_samples), torch.rand(n_samples)
    coef = torch.randn(6)
    truth = polyfit.polynomial_loss(x.double(), y.double(), coef.double())
    loss = polyfit.polynomial_loss(x, y, coef, impl="compile")
    # A prediction of degree 5 is off by a few eps, of either sign; sums of 256 in each lane by less than that.
    assert abs(float(loss) / float(truth) - 1) < 4 * torch.finfo(torch.float32).eps


@pytest.mark.compiler
def test_compiled_sums_of_equal_samples_keep_their_digits():
    # Their roundings all go one way. A vector lane adds up 256 of them: at most 255 roundings, of half an eps each.
    n_samples = 4 * sizes.current().compiled_row
    x, y, coef = torch.zeros(n_samples), torch.full((n_samples,), 0.1), torch.full((1,), 0.3)
    loss = polyfit.polynomial_loss(x, y, coef, impl="compile")
    sample = (coef - y[:1]) ** 2
    assert abs(float(loss) / float(sample) - 1) < 128 * torch.finfo(torch.float32).eps


@pytest.mark.compiler
def test_a_compiled_loop_serves_every_length():
    polyfit.polynomial_loss(torch.rand(20_000), torch.rand(20_000), torch.rand(3), impl="compile")
    for n_samples in (8_192, 30_001, 100_000):
        x, y, coef = torch.rand(n_samples), torch.rand(n_samples), torch.rand(3)
        with torch._dynamo.config.patch(error_on_recompile=True):  # pyright: ignore[reportAttributeAccessIssue]
            loss = polyfit.polynomial_loss(x, y, coef, impl="compile")
        torch.testing.assert_close(loss, polyfit.polynomial_loss(x, y, coef))


@pytest.mark.compiler
def test_training_by_a_compiled_loop():
    x = torch.linspace(-1, 1, 20_001, dtype=F64)
    rule = polyfit.optimizers.SGD(0.2)
    runs = [polyfit.train(x, x.exp(), torch.zeros(3, dtype=F64), optimizer=rule, epochs=20, impl=impl)
            for impl in ("compile", "torch")]  # fmt: skip
    torch.testing.assert_close(runs[0].coef, runs[1].coef, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(runs[0].losses.values, runs[1].losses.values, rtol=1e-11, atol=1e-11)


def test_what_compile_cannot_do_is_named(monkeypatch):
    x = torch.rand(9)
    with pytest.raises(ValueError, match="degrees up to 10 and got 11"):
        polyfit.polyval(x, torch.rand(12), impl="compile")
    monkeypatch.setattr(inductor, "has_compiler", lambda: False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler and found none"):
        polyfit.polyval(x, torch.rand(3), impl="compile")
