"""What all tests share: which of them can run here, and seeds."""

import contextlib
import dataclasses
import getpass
import importlib.metadata
import importlib.util
import os
import random
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from packaging.version import Version
from rehearsal import covering, is_rehearsal, reason_not_to

from bench.gpu.interpreter import multiply_bfloat16
from polyfit.backends import inductor, sizes

# Compiled code of tests lies apart from that of other programs, and apart for each torch and kind of vectors: torch's
# own cache does not tell vectors apart.
_KIND = f"{torch.__version__}-{torch.backends.cpu.get_cpu_capability()}".replace(" ", "_")
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"polyfit_tests_{getpass.getuser()}" / _KIND)
)

# The same examples everywhere: a run that fails here fails on the next machine too.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fixed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shuffle", type=int, metavar="SEED", help="run all tests in an order drawn from this seed")
    parser.addoption("--require-gpu", action="store_true", help="refuse to run where tests of a GPU would be skipped")


def pytest_configure(config: pytest.Config) -> None:
    if is_rehearsal() and importlib.util.find_spec("triton") is not None:
        multiply_bfloat16()
    if config.getoption("--require-gpu"):
        if is_rehearsal():
            raise pytest.UsageError("--require-gpu: with TRITON_INTERPRET=1 no kernel runs on a GPU; unset it")
        if not torch.cuda.is_available():
            raise pytest.UsageError(
                "--require-gpu: torch can use no GPU here; check the driver (nvidia-smi, rocm-smi) and that this torch"
                f" ({torch.__version__}) is a build for it"
            )
        if importlib.util.find_spec("triton") is None:
            raise pytest.UsageError("--require-gpu: Triton is not installed; pip install 'fused-polyfit[triton]'")


def _interpreter_fails() -> str:
    """Why Triton's interpreter cannot run here, or nothing."""
    versions = [Version(importlib.metadata.version(name)) for name in ("triton", "numpy")]
    if versions[0] < Version("3.7") and versions[1] >= Version("2.4"):
        return "the interpreter of Triton {} fails with numpy {}: take Triton 3.7, or numpy below 2.4".format(*versions)
    return ""


@pytest.hookimpl(trylast=True)  # after pytest has put together what shares a fixture
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("shuffle")) is not None:
        random.Random(seed).shuffle(items)
    interpreting = is_rehearsal()
    if interpreting:
        _thin(config, items)
    for item in items:
        if "cuda" in item.keywords and not interpreting and not torch.cuda.is_available():
            item.add_marker(
                pytest.mark.skip(
                    reason="needs a GPU that torch can use, or TRITON_INTERPRET=1 for a rehearsal (`make interpreter`)"
                )
            )
        if "cuda" in item.keywords and interpreting and (reason := reason_not_to(item) or _interpreter_fails()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if "interpreter" in item.keywords and not interpreting:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1, see `make interpreter`"))
        elif "interpreter" in item.keywords and (reason := _interpreter_fails()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if "codegen" in item.keywords and interpreting:
            item.add_marker(pytest.mark.skip(reason="the interpreter compiles nothing, see `make codegen`"))
        if "compiler" in item.keywords and not inductor.has_compiler():
            item.add_marker(pytest.mark.skip(reason="needs a C++ compiler that torch can use, say g++ on the PATH"))


def _thin(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect all but some cases of the tests of a GPU: a rehearsal is slow, and other values run the same lines."""
    of_gpu = [item for item in items if "cuda" in item.keywords]
    chosen = set(covering(of_gpu))
    if len(chosen) < len(of_gpu):
        config.hook.pytest_deselected(items=[item for item in of_gpu if item not in chosen])
        items[:] = [item for item in items if item in chosen or "cuda" not in item.keywords]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips itself in a rehearsal fails: the stand-in lacks what it asks for, or it has to say why."""
    report = yield
    if report.skipped and call.when == "call" and "cuda" in item.keywords and is_rehearsal():
        report.outcome = "failed"
        report.longrepr = f"{report.longrepr}: a rehearsal skips only tests with @pytest.mark.gpu_only(reason)"
    return report


@pytest.fixture(autouse=True)
def _stand_in(request: pytest.FixtureRequest) -> Iterator[None]:
    """In a rehearsal, tests of a GPU run on its stand-in."""
    if "cuda" not in request.keywords or not is_rehearsal():
        yield
        return
    from stand_ins import installed

    with installed():
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def set_sizes() -> Iterator[Callable[..., None]]:
    """`set_sizes(block=4)`: other lengths of blocks, chunks and so on for the rest of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda **changes: stack.enter_context(sizes.using(dataclasses.replace(sizes.current(), **changes)))


@pytest.fixture
def small_chunks(set_sizes: Callable[..., None]) -> None:
    """Chunks of 24 elements in blocks of 4, so that a few dozen samples meet every kind of border."""
    chunk = -(-24 // torch.get_num_threads())
    set_sizes(
        chunk_of_a_thread=chunk,
        long_chunk=1,
        samples_of_a_thread=chunk,
        activation_of_a_thread=chunk,
        short_activation=0,
        kept=0,
        block=4,
        longest_block=7,
    )


@pytest.fixture(params=["short", "chunked"])
def any_activation_pass(request: pytest.FixtureRequest, set_sizes: Callable[..., None]) -> None:
    """Few elements of an elementwise polynomial by the pass for few, and by the one for many."""
    if request.param == "chunked":
        set_sizes(short_activation=0)


@pytest.fixture
def set_policy() -> Iterator[Callable[..., None]]:
    """`set_policy(largest_grid=2)`: launches are cut by other numbers for the rest of the test."""
    from polyfit_kernels import launch

    with contextlib.ExitStack() as stack:
        yield lambda **changes: stack.enter_context(launch.using(dataclasses.replace(launch.current(), **changes)))
