"""Options that several commands take: their help, and what their values mean."""

from __future__ import annotations

import math

from polyfit import bases, losses, optimizers
from polyfit.cli.output import UserError
from polyfit.monitor import Monitor, ProgressBar, TensorBoard, Visdom
from polyfit.training import ENGINES

# Share of the largest stable rate that is taken where a person names none: the fastest direction then overshoots and
# comes back, shrinking by 0.9 an update, and the slowest is within 5 % of the best that a fixed rate can do.
SHARE_OF_MAX_LR = 0.95
# The rate of rules that scale gradients themselves.
_ADAPTIVE_LR = 0.01
RULES = {
    "sgd": "gradient descent",
    "momentum": "gradient descent with momentum",
    "adam": "Adam",
    "adamw": "AdamW",
    "rmsprop": "RMSprop",
}
OPTIMIZER_HELP = f"Update rule: {', '.join(RULES)}."
LOSS_HELP = f"Loss: {', '.join(losses.LOSSES)}."
BASIS_HELP = f"Basis of the coefficients, as numpy.polynomial names it: {', '.join(bases.BASES)}."
ENGINE_HELP = f"What makes the epochs: {', '.join(ENGINES)}."
MONITOR_HELP = "What watches: bar, tensorboard:DIR, visdom[:HOST:PORT] or none; several with commas."


def monitors(names: str) -> list[Monitor]:
    """Monitors by the names of --monitor."""
    monitors: list[Monitor] = []
    for name in names.split(","):
        kind, _, rest = name.strip().partition(":")
        host, _, port = rest.partition(":")
        try:
            if kind == "bar" and not rest:
                monitors.append(ProgressBar())
            elif kind == "tensorboard" and rest:
                monitors.append(TensorBoard(rest))
            elif kind == "visdom":
                options = {"server": f"http://{host}"} if host else {}
                monitors.append(Visdom(**options, port=int(port or 8097)))
            elif kind != "none" or rest:
                raise UserError(f"--monitor {name} is unknown; pass bar, tensorboard:DIR, visdom[:HOST:PORT] or none")
        except (ImportError, ConnectionError) as error:
            raise UserError(f"--monitor {name}: {error}") from None
        except ValueError:
            raise UserError(
                f"--monitor {name}: {port!r} is no port; pass a number, as in visdom:localhost:8097"
            ) from None
    return monitors


AnyRule = optimizers.SGD | optimizers.Adam | optimizers.AdamW | optimizers.RMSprop


def rule_of(name: str, lr: float | None, largest: float, loss: str) -> AnyRule:
    """The update rule of that name; `largest` is the largest stable rate of plain descent on the squared error."""
    makers = {
        "sgd": lambda lr: optimizers.SGD(lr=lr),
        "momentum": lambda lr: optimizers.SGD(lr=lr, momentum=0.9),
        "adam": lambda lr: optimizers.Adam(lr=lr),
        "adamw": lambda lr: optimizers.AdamW(lr=lr),
        "rmsprop": lambda lr: optimizers.RMSprop(lr=lr),
    }
    if name not in makers:
        raise UserError(f"--optimizer {name} is unknown; pass one of {', '.join(makers)}")
    is_descent = name in {"sgd", "momentum"}
    if lr is None:
        return makers[name](SHARE_OF_MAX_LR * largest if is_descent else _ADAPTIVE_LR)
    try:
        rule = makers[name](lr)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    if name == "sgd" and loss == "mse" and lr > largest:
        raise UserError(f"--lr {lr:g} must diverge: the largest stable rate for these data is {_round_down(largest)}")
    return rule


def _round_down(value: float) -> str:
    """Four digits, and none of them too many."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3)
    return f"{math.floor(value / unit) * unit:.4g}"
