"""The networks on images of digits.

Differences between networks are paired, seed by seed, and measured in their own standard errors. Rounding differs
between processors and numbers of threads, and after some steps a training is another draw of the same experiment: the
bounds below are so far from the differences of a run that such a draw does not reach them. The comment beside each has
the difference +- its standard error on x86-64 with AVX-512, one thread. The tables of the guide are from longer
trainings with more seeds, by the commands beside them.
"""

from pathlib import Path

import pytest
import torch

pytest.importorskip("sklearn", reason="needs the extra examples")

from polyfit.examples import _digits, convolutional, fully_connected, kan, registry


def is_not_below(result: _digits.Result) -> bool:
    """Not below the network that it is compared with by more than two standard errors of the difference."""
    return result.difference > -2 * result.error


def test_polynomials_in_a_fully_connected_network_do_not_learn_worse_than_silu() -> None:
    results = fully_connected.main(epochs=12, seeds=5)
    assert is_not_below(results["identity on (-1, 1)"])  # +0.0137 +- 0.0028
    assert is_not_below(results["SiLU on (-4, 4)"])  # +0.0040 +- 0.0014
    assert results["SiLU"].accuracy > 0.93  # 0.956


def test_a_polynomial_for_each_channel_does_not_learn_worse_than_silu(tmp_path: Path) -> None:
    picture = tmp_path / "activations.png"
    results = convolutional.main(epochs=5, seeds=5, picture=str(picture))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert is_not_below(results["identity on (-1, 1)"])  # +0.0586 +- 0.0045
    assert is_not_below(results["SiLU on (-4, 4)"])  # +0.0181 +- 0.0014


def test_kan_layers_learn_and_their_functions_are_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "kan.png"
    results = kan.main(epochs=15, seeds=2, picture=str(picture))
    assert all(result.accuracy > 0.93 for result in results.values())  # 0.951 to 0.967
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_an_activation_by_name_is_a_new_module_that_is_trained() -> None:
    first, second = registry.ACT2FN["polynomial"], registry.ACT2FN["polynomial"]
    assert first is not second
    assert isinstance(registry.ACT2FN["silu"], torch.nn.SiLU)
    accuracies = registry.main()
    assert min(accuracies.values()) > 0.9  # 0.951 to 0.972


def test_a_seed_determines_images_and_initial_weights() -> None:
    digits, again, other = (_digits.load(seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(digits, again, strict=True))
    assert not digits.images.equal(other.images)
    assert len(digits.labels) == 1200
    assert len(digits.test_labels) == 597
    assert digits.images.aminmax() == (-1.0, 1.0)
    weights = []
    for activation in fully_connected.ACTIVATIONS.values():
        torch.manual_seed(0)
        weights.append([p for name, p in fully_connected.build(activation).named_parameters() if "coef" not in name])
    assert all(a.equal(b) for others in weights[1:] for a, b in zip(weights[0], others, strict=True))


def test_the_table_has_means_and_standard_errors_of_the_differences(capsys: pytest.CaptureFixture[str]) -> None:
    """Networks whose accuracies are known: a constant answer is right as often as the test has that digit."""

    class Always(torch.nn.Module):
        def __init__(self, digit: int) -> None:
            super().__init__()
            self.scores = torch.nn.Parameter(torch.eye(10)[digit])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.scores.expand(len(images), 10)

    results = _digits.compare({"0": lambda: Always(0), "1": lambda: Always(1)}, epochs=0, seeds=range(3))
    labels = [_digits.load(seed).test_labels for seed in range(3)]
    shares = torch.stack([torch.stack([(row == digit).double().mean() for row in labels]) for digit in (0, 1)])
    assert results["0"].accuracy == pytest.approx(shares[0].mean().item(), rel=1e-12)
    assert results["1"].difference == pytest.approx((shares[1] - shares[0]).mean().item(), rel=1e-12)
    spread = (shares[1] - shares[0]).var().item()
    assert results["1"].error == pytest.approx((spread / 3) ** 0.5, rel=1e-12)
    _digits.show(results)
    assert f"{results['1'].difference:+.4f} +- {results['1'].error:.4f}" in capsys.readouterr().out
