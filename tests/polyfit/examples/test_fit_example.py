import itertools
import math

import numpy as np
import torch

from polyfit.examples import fit

U = 2.0**-24  # the largest relative error of a rounding in float32


def rounded_path(batches: list[tuple[np.ndarray, np.ndarray]], lr: float) -> tuple[list[float], list[float]]:
    """The losses of gradient descent in float64, and a standard deviation for those of one in float32.

    Each rounding is taken as an independent error of standard deviation U times the number, the usual model (Higham
    and Mary, SIAM J. Sci. Comput. 41, 2019; the largest error is U, so that this is an upper bound). A step takes an
    error e of the coefficients to (I - lr H) e, and adds its own: covariances follow exactly.
    """
    coef, covariance = np.zeros(6), np.zeros((6, 6))
    losses, deviations = [], []
    n_batches = 2000 // 100
    for epoch in range(len(batches) // n_batches):
        loss = deviation = 0.0
        for x, y in batches[epoch * n_batches : (epoch + 1) * n_batches]:
            powers = np.vander(x, 6, increasing=True)
            residual = powers @ coef - y
            # A sample's prediction: each term has been through at most 2 d + 2 = 12 roundings; then y is subtracted.
            of_residual = U**2 * (12 * (np.abs(powers) @ np.abs(coef)) ** 2 + residual**2)
            # A sum of n numbers in any order: each partial sum, at most the sum of magnitudes, is rounded.
            terms = 2 * residual[:, None] * powers
            of_sums = U**2 * (len(x) * np.abs(terms).sum(0) ** 2 + 12 * (terms**2).sum(0))
            of_gradient = 4 * powers.T @ (of_residual[:, None] * powers) + np.diag(of_sums)
            gradient = terms.sum(0)

            batch_loss = residual @ residual
            own = len(x) * (U * batch_loss) ** 2 + 4 * residual**2 @ of_residual
            second_order = np.trace(powers @ covariance @ powers.T)
            deviation += math.sqrt(gradient @ covariance @ gradient + own) + second_order
            loss += batch_loss

            step = np.eye(6) - 2 * lr * powers.T @ powers
            update = np.diag(U**2 * (coef**2 + (lr * gradient) ** 2))
            covariance = step @ covariance @ step.T + lr**2 * of_gradient + update
            coef = coef - lr * gradient
        losses.append(loss)
        deviations.append(deviation)
    return losses, deviations


def test_two_lines_make_the_eager_model_polyfits_and_losses_agree_to_rounding() -> None:
    assert [line[0] for line in fit.changed_lines()] == ["-", "+", "-", "+"]
    eager, ours = fit.main()
    loader = fit.data()
    batches = [
        (x.double().numpy(), y.double().numpy()) for x, y in itertools.chain(*(loader for _ in range(fit.EPOCHS)))
    ]
    expected, deviations = rounded_path(batches, fit.LEARNING_RATE)
    for run in (eager, ours):
        errors = torch.tensor(run.losses).double() - torch.tensor(expected)
        # 100 losses of each run: one is beyond 6 deviations in 1e-7 of runs, if errors are normal.
        assert (errors.abs() <= 6 * torch.tensor(deviations)).all()
    assert max(deviations) < 1e-5 * max(expected)  # the bound is narrow
    # Less than 1000, the sum of sin(x)^2. Powers of x are nearly dependent on [-pi, pi]: the optimum, 0.037, is far.
    assert ours.losses[-1] < 310
    assert ours.losses == sorted(ours.losses, reverse=True)
