"""Every basis, loss and update rule of the registries has its tests, its kernel and its place in the docs.

What is added to a registry fails here until the rest is there; CONTRIBUTING.md says in which files.
"""

from __future__ import annotations

import inspect
from pathlib import Path

import cases
import oracle
import pytest
import torch

import polyfit
from polyfit import bases, formula, losses, nn, optimizers
from polyfit.nn.kan import LAYOUTS

DOCS = Path(__file__).parents[1] / "docs"


def test_every_basis_has_an_oracle():
    assert oracle.TO_POWER.keys() == oracle.NUMPY_CLASSES.keys() == bases.BASES.keys()
    assert {case.basis for case in cases.CASES.values()} == bases.BASES.keys()


def test_every_loss_has_an_oracle():
    tested = {case.loss.kernel[0] for case in cases.LOSSES.values()}
    assert tested == losses.kernel_variants().keys()
    assert {type(case.loss) for case in cases.LOSSES.values()} == {*losses.LOSSES.values()}


@pytest.mark.parametrize("name", cases.LOSSES)
def test_a_kernel_and_a_custom_operator_know_a_loss_by_two_arguments(name):
    loss = cases.LOSSES[name].loss
    again = losses.from_kernel(*loss.kernel)
    p, y = torch.linspace(0.1, 3, 50), torch.linspace(3, 0, 50)
    assert torch.equal(again.value(p, y), loss.value(p, y))
    assert again.kernel == loss.kernel


def test_every_rule_has_an_oracle():
    from training_oracle import RULES

    assert {rule.kernel[0] for rule, _ in RULES.values()} == optimizers.kernel_variants().keys()
    assert {type(rule) for rule, _ in RULES.values()} == {*optimizers.OPTIMIZERS.values()}


def test_the_gate_compiles_all_of_them():
    pytest.importorskip("triton")
    import codegen

    # The two variants of Poisson's loss that the gate leaves out are parts of the other two.
    parts = {"poisson_nll", "poisson_nll_log_full"}
    for grid, left_out in ((codegen.GATE, parts), (codegen.FULL_GRID, set())):
        variants = [variant for variant in grid.values() if isinstance(variant, codegen.Variant)]
        assert {variant.basis for variant in variants} == bases.BASES.keys()
        assert {variant.loss.kernel[0] for variant in variants} == losses.kernel_variants().keys() - left_out
        rules = {variant.rule for variant in grid.values() if isinstance(variant, codegen.Descent)}
        assert rules == optimizers.kernel_variants().keys()


# The modules of torch.nn that polyfit has.
MODULES = [found for found in map(vars(polyfit.nn).get, polyfit.nn.__all__) if isinstance(found, type)]


@pytest.mark.parametrize("function", [polyfit.polyval, polyfit.polynomial_loss, polyfit.fit, *MODULES])
def test_docstrings_name_every_basis(function):
    assert all(f'"{name}"' in (inspect.getdoc(function) or "") for name in bases.BASES)


def test_docstrings_name_every_continuation_and_squash():
    of_activation, of_kan = (inspect.getdoc(module) or "" for module in (nn.Polynomial, nn.PolynomialKAN))
    assert all(f'"{name}"' in of_activation for name in formula.OUTSIDE)
    assert all(f'"{name}"' in of_kan for name in formula.SQUASHES if name)
    assert all(f'"{layout}"' in (inspect.getdoc(nn.PolynomialKAN.load_coefficients) or "") for layout in LAYOUTS)


def test_every_module_with_coefficients_is_copied_saved_and_exported():
    """In the tables of the tests of polyfit.nn."""
    tests = Path(__file__).parent / "polyfit/nn"
    for table, file in (("MODULES", "test_state.py"), ("EXPORTED", "test_layers_in_models.py")):
        source = (tests / file).read_text("utf-8")
        lines = source[source.index(f"\n{table}") :].split("\n}\n")[0]
        assert [
            name.__name__ for name in MODULES if hasattr(name, "no_weight_decay") and f"{name.__name__}(" not in lines
        ] == []


def test_docs_name_all_of_them():
    operators, train = ((DOCS / f"{page}.md").read_text("utf-8") for page in ("operators", "train"))
    assert all(f'"{name}"' in (inspect.getdoc(polyfit.polynomial_loss) or "") for name in losses.LOSSES)
    assert [name for name in [*bases.BASES, *losses.LOSSES] if f"| {name} |" not in operators] == []
    assert [rule.__name__ for rule in optimizers.OPTIMIZERS.values() if f"`{rule.__name__}`" not in train] == []
