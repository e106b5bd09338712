"""The stand-in for a GPU fails where a GPU does, and the tests of a GPU are rehearsed on it."""

from __future__ import annotations

import inspect
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal import covering
from stand_ins.gpu import Gpu

import polyfit
from bench import peers
from polyfit.optimizers import SGD, Adam
from polyfit.training.engines import stepping

pytest.importorskip("triton")
from stand_ins import installed

from polyfit_kernels import partials
from polyfit_kernels.evaluate import evaluate

pytestmark = pytest.mark.interpreter

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def gpu() -> Iterator[Gpu]:
    with installed() as gpu:
        yield gpu


# --- tensors ---


def test_tensors_know_where_they_are():
    x = torch.randn(3, device="cuda")
    assert (x.device, x.is_cuda, x[1:].device) == (torch.device("cuda:0"), True, torch.device("cuda:0"))
    assert x.cpu().device == torch.device("cpu")
    assert x.to("cuda:1").device == torch.device("cuda:1")
    assert x.double().new_zeros(2).is_cuda
    assert not x.new_zeros(2, device="cpu").is_cuda
    assert torch.zeros(3).to(x).is_cuda
    assert torch.as_tensor(torch.zeros(3), device="cuda").is_cuda
    assert [part.is_cuda for part in torch.max(x, 0)] == [True, True]
    assert x.to(torch.float64).is_cuda


def test_moving_copies():
    on_cpu = torch.zeros(3)
    on_gpu = on_cpu.cuda()
    on_gpu += 1
    torch.as_tensor(on_cpu, device="cuda").add_(1)
    assert on_cpu.tolist() == [0, 0, 0]
    assert not on_cpu.is_cuda
    assert on_gpu.cuda() is on_gpu


def test_gradients_are_on_the_gpu():
    coef = torch.randn(4, device="cuda", requires_grad=True)
    x = torch.randn(50, device="cuda")
    polyfit.polynomial_loss(x, x, coef).backward()
    assert coef.grad is not None
    assert coef.grad.is_cuda
    (grad,) = torch.autograd.grad(polyfit.polyval(x, coef).sum(), coef)
    assert grad.is_cuda


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x: x + torch.ones(3), "same device"),
        (lambda x: torch.stack([x, torch.ones(3)]), "same device"),
        (lambda x: x + x.to("cuda:1"), "same device"),
        (lambda x: torch.equal(x, x.cpu()), "same device"),
        (lambda x: torch.rand(3, device="cuda", generator=torch.Generator()), "generator"),
        (lambda x: torch.rand(3, generator=torch.Generator("cuda")), "generator"),
        (lambda x: torch.ones(3)[x.long()], "indices should be"),
        (lambda x: x.to("cuda:2"), "invalid device ordinal"),
        (lambda x: torch.cuda.Event().elapsed_time(torch.cuda.Event()), "enable_timing"),
        (lambda x: torch.cuda.CUDAGraph().replay(), "not captured"),
    ],
)
def test_what_a_gpu_refuses(wrong, said):
    with pytest.raises((RuntimeError, ValueError), match=said):
        wrong(torch.ones(3, device="cuda"))


def test_numpy_takes_no_tensor_of_a_gpu():
    with pytest.raises(TypeError, match=r"call cpu\(\) first"):
        torch.ones(3, device="cuda").numpy()


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_kernel_takes_memory_of_the_current_gpu(device):
    x, coef = torch.ones(1, 3, device="cuda"), torch.ones(1, 2, device=device)
    with pytest.raises((RuntimeError, ValueError), match=r"cpu tensor|memory of cuda:1"):
        evaluate(x, coef, None, "power")


def test_what_no_kernel_writes_shows():
    assert torch.empty(3, device="cuda").isnan().all()
    assert torch.empty(3, device="cuda", dtype=torch.int32).tolist() == [-1, -1, -1]


def test_times_are_read_after_the_host_has_waited():
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    end.record()
    with pytest.raises(RuntimeError, match="not ready"):
        begin.elapsed_time(end)
    torch.cuda.synchronize()
    assert begin.elapsed_time(end) >= 0.0


# --- streams ---


def test_each_stream_has_its_tickets():
    x, coef = torch.randn(1, 3000, device="cuda"), torch.randn(1, 3, device="cuda")
    from polyfit_kernels.objective import objective

    for stream in (torch.cuda.Stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            objective(x, x, coef, None, None, None, "power", "mse", 0.0)
        assert (0, stream.cuda_stream) in partials._tickets
    assert len(partials._tickets) == 2


def test_threads_have_their_own_stream():
    found = []

    def work() -> None:
        found.append((torch.cuda.current_stream().cuda_stream, torch.ones(1, device="cuda").is_cuda))

    with torch.cuda.stream(torch.cuda.Stream()):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert found == [(0, True)]


# --- graphs ---


def test_a_capture_changes_nothing_and_a_replay_does_it_again():
    total, step = torch.zeros(2, device="cuda"), torch.ones(2, device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = step * 2
        total += doubled
    assert doubled.isnan().all()
    assert total.tolist() == [0, 0]
    graph.replay()
    assert doubled.tolist() == [2, 2]
    step.fill_(5)
    graph.replay()
    assert total.tolist() == [12, 12]


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(), lambda x: x.tolist(), lambda x: x.cpu(), lambda x: bool(x[0] > 0),
        lambda x: torch.ones(3).cuda(), lambda x: x.copy_(torch.ones(3)), lambda x: torch.cuda.synchronize(),
        lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: x.unique(), lambda x: x.masked_select(x > 0), str,
        lambda x: f"{x.sum()}", lambda x: torch.tensor([1.0], device="cuda"),
    ],
)  # fmt: skip
def test_a_capture_forbids_to_wait_for_the_device(waits):
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="capturing"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        waits(x)


def test_stepwise_replays_a_graph(monkeypatch, gpu):
    captures = []
    capture = stepping.captured
    monkeypatch.setattr(stepping, "captured", lambda function: captures.append(function) or capture(function))
    x = torch.linspace(-1, 1, 40, dtype=torch.float64, device="cuda")
    start = torch.zeros(3, dtype=torch.float64, device="cuda")
    options: dict[str, Any] = {"optimizer": Adam(0.02), "loss": "huber", "engine": "stepwise", "record_every": 3}
    found = polyfit.train(x, x.exp(), start, epochs=7, **options)
    assert len(captures) == 1
    plain = polyfit.train(x.cpu(), x.cpu().exp(), start.cpu(), epochs=7, **options)
    torch.testing.assert_close(found.coef.cpu(), plain.coef)
    torch.testing.assert_close(found.losses.values, plain.losses.values)


@pytest.mark.parametrize("rule", [SGD(1e-3), Adam(1e-2)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_the_peer_that_is_compiled_runs_as_written(loss, rule):
    x = torch.linspace(-math.pi, math.pi, 50, dtype=torch.float64, device="cuda")
    start = torch.randn(6, dtype=torch.float64).cuda() / 10
    found = peers.train_compiled(x, x.sin(), start, rule, loss, 8)
    assert found.is_cuda
    expected = peers.train_eagerly(x.cpu(), x.cpu().sin(), start.cpu(), rule, loss, 8)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rule", [SGD(1e-3), Adam(1e-2)])
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_the_peer_that_replays_a_graph_trains_as_the_eager_one(loss, rule):
    x = torch.linspace(-math.pi, math.pi, 50, dtype=torch.float64, device="cuda")
    start = torch.randn(6, dtype=torch.float64).cuda() / 10
    found = peers.train_graphed(x, x.sin(), start, rule, loss, 8)
    expected = peers.train_eagerly(x.cpu(), x.cpu().sin(), start.cpu(), rule, loss, 8)
    # A capturable Adam counts epochs in float32: 1 - 0.999**epoch, at least 0.001, is off by half an ulp of 1.
    off = 0.0 if isinstance(rule, SGD) else 8 * 0.01 * 2.0**-24 / 0.001
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-12, atol=1e-14 + off)


# --- what is rehearsed ---

# Functions of test_cuda.py, and those of them with the marker `gpu_only`.
N_FUNCTIONS, N_GPU_ONLY = 45, 0


def test_every_function_is_rehearsed_or_says_why():
    import test_cuda

    functions = {name: part for name, part in vars(test_cuda).items() if name.startswith("test_")}
    not_rehearsed = {
        name: marker.args
        for name, part in functions.items()
        for marker in getattr(part, "pytestmark", ())
        if marker.name == "gpu_only"
    }
    assert all(inspect.isfunction(part) for part in functions.values())
    assert all(len(args) == 1 and len(args[0]) > 20 for args in not_rehearsed.values()), not_rehearsed
    assert (len(functions), len(not_rehearsed)) == (N_FUNCTIONS, N_GPU_ONLY)
    collected = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", "tests/test_cuda.py"],
        cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    cases = [line.split("::")[1].split("[")[0] for line in collected.stdout.splitlines() if "::" in line]
    assert set(cases) == set(functions)


def test_cases_cover_every_value(request):
    cases: list[Any] = [item for item in request.session.items if item.name.startswith("test_for_covering")]
    if len(cases) < 9:
        pytest.skip("checks a choice among nine cases, and another worker of pytest has some of them")
    chosen: list[Any] = covering(cases)
    assert len(chosen) == 3
    for name in ("first", "second"):
        assert {case.callspec.params[name] for case in chosen} == {1, 2, 3}


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("second", [1, 2, 3])
def test_for_covering(first, second):
    assert (first, second) != (0, 0)
