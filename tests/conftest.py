"""What all tests share: which of them can run here, and seeds."""

import contextlib
import dataclasses
import getpass
import importlib.metadata
import importlib.util
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from packaging.version import Version

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
    if config.getoption("--require-gpu"):
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
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        if "cuda" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a GPU that torch can use"))
        if "interpreter" in item.keywords and not interpreting:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1, see `make interpreter`"))
        elif "interpreter" in item.keywords and (reason := _interpreter_fails()):
            item.add_marker(pytest.mark.skip(reason=reason))
        if "codegen" in item.keywords and interpreting:
            item.add_marker(pytest.mark.skip(reason="the interpreter compiles nothing, see `make codegen`"))
        if "compiler" in item.keywords and not inductor.has_compiler():
            item.add_marker(pytest.mark.skip(reason="needs a C++ compiler that torch can use, say g++ on the PATH"))


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
    set_sizes(chunk_of_a_thread=-(-24 // torch.get_num_threads()), kept=0, block=4, longest_block=7)
