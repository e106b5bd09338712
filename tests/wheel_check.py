"""Build the wheel and use it from outside the checkout, in an environment that borrows the installed torch.

Also checked: what the wheel asks pip for, and that it works where Triton is not installed.

Run by `make wheel`. The environment sees the packages of the one that runs this through a path file, which does not
activate the editable installation there: what it imports as polyfit can only be the wheel.
"""

import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
PROBE = """
import importlib.metadata, re, sys
if "--without-triton" in sys.argv:
    sys.modules["triton"] = None  # as if it were not installed
import torch, polyfit
from pathlib import Path
assert Path(polyfit.__file__).is_relative_to(sys.prefix), polyfit.__file__
assert not sys.modules.get("triton"), "import polyfit imports triton"
x = torch.linspace(-1, 1, 101, dtype=torch.float64)
coef = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
loss = polyfit.polynomial_loss(x, polyfit.polyval(x, coef.detach()), coef)
loss.backward()
assert loss.item() < 1e-28 and coef.grad.abs().max() < 1e-14  # squares of roundings
assert polyfit.nn.PolynomialKAN(3, 2, 4)(polyfit.nn.Polynomial(5)(torch.randn(7, 3))).shape == (7, 2)
import polyfit_kernels
assert Path(polyfit_kernels.__file__).is_relative_to(sys.prefix), polyfit_kernels.__file__
if "--without-triton" in sys.argv:
    try:
        polyfit.polyval(x, coef, impl="triton")
    except ValueError as error:
        assert "fused-polyfit[triton]" in str(error), error
    else:
        raise AssertionError("impl='triton' without Triton is not refused")
asked = importlib.metadata.requires("fused-polyfit")
always = {re.match("[a-z-]+", line)[0] for line in asked if "extra ==" not in line}
assert always == {"numpy", "torch"}, always  # pip would bring a Triton that torch does not go with
assert any(re.match("triton.*extra == .triton", line) for line in asked), asked
assert (Path(polyfit.__file__).parent / "py.typed").exists()
print("wheel", polyfit.__version__, "works from", Path(polyfit.__file__).parent, *sys.argv[1:])
"""


def run(*command: str | Path, cwd: Path) -> None:
    """Run a command; stop with its output where it fails."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stdout}{result.stderr}")
    if result.stdout:
        print(result.stdout, end="")


def main() -> None:
    """Build, install, import, run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.rmtree(HERE / "build", ignore_errors=True)  # a module deleted since would still be packed from there
        pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
        run(*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder, HERE, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        home = folder / "env"
        venv.create(home, with_pip=False)
        scheme = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
        site, binaries = Path(scheme["purelib"]), Path(scheme["scripts"])
        (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        # Without --ignore-installed pip would uninstall the editable installation of the environment that runs this.
        run(*pip, "install", "--no-deps", "--ignore-installed", "--prefix", home, wheel, cwd=folder)
        python = binaries / Path(sys.executable).name
        run(python, "-c", PROBE, cwd=folder)
        run(python, "-c", PROBE, "--without-triton", cwd=folder)
        run(python, "-m", "polyfit", "train", "--help", cwd=folder)
        run(python, "-c", "from polyfit.examples import registry; registry.main(epochs=1)", cwd=folder)


if __name__ == "__main__":
    main()
