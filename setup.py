"""Packaging of fused-polyfit: two import packages, `polyfit` and `polyfit_kernels`, in one distribution."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "polyfit/__init__.py").read_text("utf-8"), re.M)
assert VERSION is not None

# The lowest versions with which the reference tests were run, all of them in one environment.
CLI = ["typer>=0.20", "rich>=13", "matplotlib>=3.8", "scipy>=1.11"]
TENSORBOARD = ["tensorboard>=2.16", "matplotlib>=3.8"]
BENCH = ["pytest>=8", "pytest-benchmark>=5", "scipy>=1.11"]
STATS = ["scipy>=1.11"]
# Not a requirement: a build of torch for GPUs brings the Triton that it was tested with, a build for CPUs needs none.
TRITON = ["triton>=3.6; platform_system == 'Linux'"]
# What torch.onnx.export needs, and what runs its files.
ONNX = ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"]
EXAMPLES = ["scikit-learn>=1.9", "statsmodels>=0.15"]
TESTS = ["pytest>=8", "hypothesis>=6.100", "mpmath>=1.3", "pytest-xdist>=3.8", "sybil>=10.1"]
LINT = ["ruff", "pyright[nodejs]"]

setup(
    name="fused-polyfit",
    version=VERSION[1],
    description="Fused polynomial evaluation, losses, gradients and training for PyTorch, in Triton and on the CPU",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=[*find_packages(include=["polyfit", "polyfit.*"]), *find_packages("kernels")],
    # `kernels` itself is no package: a top-level import of that name would overwrite another project's.
    package_dir={"polyfit_kernels": "kernels/polyfit_kernels"},
    package_data={"polyfit": ["py.typed"], "polyfit.backends": ["descent.cpp"]},
    install_requires=["numpy>=2.0", "torch>=2.11"],
    extras_require={
        "cli": CLI,
        "stats": STATS,
        "triton": TRITON,
        "tensorboard": TENSORBOARD,
        "visdom": ["visdom>=0.2.4"],
        "bench": BENCH,
        "examples": EXAMPLES,
        "onnx": ONNX,
        "dev": [*CLI, *BENCH, *EXAMPLES, *TENSORBOARD, *ONNX, *TESTS, *LINT, *TRITON, "setuptools>=77", "wheel"],
    },
    entry_points={"console_scripts": ["polyfit = polyfit.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Operating System :: POSIX :: Linux",
        "Topic :: Scientific/Engineering :: Mathematics",
    ],
)
