"""Copies, pickles, files and state_dicts of the modules, parametrized ones too."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from polyfit.nn import Polynomial, PolynomialKAN, PolynomialRegression

MODULES: dict[str, Callable[..., nn.Module]] = {
    "one polynomial": lambda **more: Polynomial(4, **{"domain": (-2, 2), "init": "gelu", **more}),
    "a polynomial a channel": lambda **more: Polynomial(4, 6, basis="legendre", init=torch.tanh, **more),
    "groups": lambda **more: Polynomial(3, 6, num_groups=2, **more),
    "KAN": lambda **more: PolynomialKAN(6, 3, 4, squash="algebraic", **more),
    "regression": lambda **more: PolynomialRegression(3, loss="huber", basis="chebyshev", domain=(-2, 2), **more),
    "regressions": lambda **more: PolynomialRegression(3, num_series=5, **more),
}
X = torch.linspace(-3, 3, 30).view(5, 6)


def drawn(name: str, **more: object) -> nn.Module:
    torch.manual_seed(3)
    module = MODULES[name](**more)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape).to(parameter.device, parameter.dtype))
    return module


def through_file(value: Any, **options: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, **options)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "torch.save": lambda module: through_file(module, weights_only=False),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("name", MODULES)
def test_copies(name, way):
    module = drawn(name)
    module(X).sum().backward()
    other = COPIES[way](module)
    assert torch.equal(other(X), module(X))
    assert repr(other) == repr(module)
    assert all(parameter.is_contiguous() for parameter in other.parameters())
    other.reset_parameters()
    assert not torch.equal(other(X), module(X))  # a copy has parameters of its own


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", MODULES)
def test_state_dicts_across_files_and_dtypes(name, assign):
    module = drawn(name)
    state = through_file(module.state_dict(), weights_only=True)
    other = MODULES[name]()
    # A copy: torch remembers in a state_dict that it was assigned.
    other.load_state_dict(copy.deepcopy(state), assign=assign)
    assert torch.equal(other(X), module(X))
    assert all(parameter.is_contiguous() for parameter in other.parameters())
    wide = MODULES[name](dtype=torch.float64)
    wide.load_state_dict(state)
    assert wide(X.double()).dtype == torch.float64
    torch.testing.assert_close(wide(X.double()).float(), module(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_state_dicts_of_plain_tensors(name):
    """As safetensors has them: contiguous, without metadata."""
    module = drawn(name)
    state = {key: value.clone(memory_format=torch.contiguous_format) for key, value in module.state_dict().items()}
    assert all(isinstance(value, Tensor) for value in state.values())
    for assign in (False, True):
        other = MODULES[name]()
        other.load_state_dict(state, assign=assign)
        assert torch.equal(other(X), module(X))
        assert all(parameter.is_contiguous() for parameter in other.parameters())
        assert all(parameter.requires_grad for parameter in other.parameters())


@pytest.mark.parametrize("name", MODULES)
def test_parameters_are_contiguous(name):
    """torch.optim.LBFGS, parameters_to_vector, pruning, collectives and safetensors want that."""
    module = drawn(name)
    vector = nn.utils.parameters_to_vector(module.parameters())
    before = module(X).detach()
    nn.utils.vector_to_parameters(vector.clone(), module.parameters())
    assert torch.equal(module(X), before)
    optimizer = torch.optim.LBFGS(module.parameters(), max_iter=3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module(X).square().mean()
        loss.backward()
        return loss

    assert closure() > optimizer.step(closure) - 1e-6
    assert closure() < before.square().mean()


class _RowMajor(nn.Module):
    def forward(self, coef: Tensor) -> Tensor:
        return (2.0 * coef).clone(memory_format=torch.contiguous_format)

    def right_inverse(self, coef: Tensor) -> Tensor:
        return (0.5 * coef).t().contiguous().t()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("way", ["own", "weight_norm", "prune"])
def test_states_of_parametrized_coefficients(way, assign):
    def make() -> nn.Module:
        layer = drawn("a polynomial a channel")
        if way == "own":
            nn.utils.parametrize.register_parametrization(layer, "coef", _RowMajor())
        elif way == "weight_norm":
            nn.utils.parametrizations.weight_norm(layer, "coef")
        else:
            prune.random_unstructured(layer, "coef", 0.3)
        return layer

    layer = make()
    names = [name for name, _ in layer.named_parameters()]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(1.5)
    other = make()
    other.load_state_dict(copy.deepcopy(layer.state_dict()), assign=assign)
    assert torch.equal(other(X), layer(X))
    assert [name for name, _ in other.named_parameters()] == names


@pytest.mark.parametrize("name", MODULES)
def test_meta(name):
    """Shapes without numbers; then numbers from a state."""
    module, other = drawn(name), MODULES[name](device="meta")
    assert all(parameter.is_meta for parameter in other.parameters())
    assert other(X.to("meta")).shape == module(X).shape
    other.load_state_dict(module.state_dict(), assign=True)
    assert torch.equal(other(X), module(X))
    again = MODULES[name](device="meta").to_empty(device="cpu")
    again.load_state_dict(module.state_dict())
    assert torch.equal(again(X), module(X))


def test_a_frozen_parameter_stays_frozen():
    layer = Polynomial(3, 4).requires_grad_(False)
    layer.load_state_dict({"coef": torch.zeros(4, 4)}, assign=True)
    assert not layer.coef.requires_grad


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(
    ("saved", "module", "message"),
    [
        (
            Polynomial(5),
            Polynomial(3),
            "0.coef: the state has 1 polynomial of degree 5 and this Polynomial has 1 polynomial of degree 3; make",
        ),
        (
            Polynomial(3, 8),
            Polynomial(3, 4),
            "0.coef: the state has 8 polynomials of degree 3 and this Polynomial has 4 polynomials of degree 3; make",
        ),
        (
            Polynomial(3, 8),
            Polynomial(3),
            "0.coef: the state has 8 polynomials of degree 3 and this Polynomial has 1 polynomial of degree 3; make",
        ),
        (PolynomialKAN(3, 2, 5), PolynomialKAN(3, 2, 4), "0.coef: the state has degree 5, 3 inputs and 2 outputs"),
        (
            PolynomialRegression(5, num_series=2),
            PolynomialRegression(3),
            "0.coef: the state has degree 5 with num_series=2 and this PolynomialRegression has degree 3 with",
        ),
        (
            Polynomial(3, domain=(-2, 2)),
            Polynomial(3),
            r"0.coef: the state was saved with domain=\(-2.0, 2.0\) and this",
        ),
        (Polynomial(3, basis="power"), Polynomial(3), "0.coef: the state was saved with basis='power' and this"),
        (Polynomial(3, outside="clamp"), Polynomial(3), "0.coef: the state was saved with outside='clamp' and this"),
        (PolynomialKAN(3, 2, 4, squash=None), PolynomialKAN(3, 2, 4), "0.coef: the state was saved with squash=None"),
    ],
)
def test_states_that_are_refused(saved, module, message, strict):
    state = through_file(nn.Sequential(saved).state_dict(), weights_only=True)
    net = nn.Sequential(module)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(RuntimeError, match=message) as raised:
        net.load_state_dict(state, strict=strict)
    assert len(str(raised.value).splitlines()) == 2  # torch's first line, and ours
    for key, value in net.state_dict().items():
        if key.endswith("coef"):
            assert torch.equal(value, before[key])


def test_a_state_that_lacks_the_coefficients():
    with pytest.raises(RuntimeError, match="Missing key"):
        Polynomial(3).load_state_dict({})
    assert Polynomial(3).load_state_dict({}, strict=False).missing_keys == ["coef"]
    with pytest.raises(RuntimeError, match="Unexpected key"):
        Polynomial(3).load_state_dict({"coef": torch.zeros(4), "bias": torch.zeros(1)})
