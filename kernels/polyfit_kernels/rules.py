"""Update rules inside a kernel: the rules of torch.optim.

An update reads three numbers from a table that the host computes: the learning rate, and two factors a and b. The
factors depend on the number of the update only (shares of the momentum, bias corrections of Adam). Coefficients,
gradients and the memory of a rule are tuples with one entry for each coefficient: a scalar, or a tensor with one
element for each series.

A rule has four constants. The first is the weight decay. The others are

    momentum, nesterov    the momentum
    adam, adamw           beta1, beta2, eps
    rmsprop...            alpha, the momentum, eps
"""

import triton
import triton.language as tl

# Memory vectors of each rule: one has as many entries as there are coefficients.
STATES = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "adam": 2,
    "adamw": 2,
    "rmsprop": 1,
    "rmsprop_momentum": 2,
    "rmsprop_centered": 2,
    "rmsprop_centered_momentum": 3,
}


@triton.jit
def constants(decay, first, second, eps, COMPUTE: tl.constexpr):
    """The four constants in the dtype that computes, and 1 - first and 1 - second, subtracted in float64."""
    return (
        tl.full((), decay, COMPUTE),
        tl.full((), first, COMPUTE),
        tl.full((), second, COMPUTE),
        tl.full((), eps, COMPUTE),
        tl.full((), 1.0 - first, COMPUTE),
        tl.full((), 1.0 - second, COMPUTE),
    )


@triton.jit
def update(coef, gradient, state, lr, a, b, constants, RULE: tl.constexpr, HAS_DECAY: tl.constexpr):
    """Coefficients and state after an update.

    Args:
        coef: tuple of p entries.
        gradient: tuple of p entries.
        state: `STATES[RULE]` times p entries, one memory vector after the other.
        lr: learning rate.
        a: first factor.
        b: second factor.
        constants: the tuple that `constants` gives.
        RULE: the name of the rule.
        HAS_DECAY: whether the weight decay may differ from 0.
    """
    decay, first, second, eps, without_first, without_second = constants
    P: tl.constexpr = len(coef)
    new = ()
    one = ()  # the memory vectors of the new state
    two = ()
    three = ()
    for k in tl.static_range(P):
        c, g = coef[k], gradient[k]
        if HAS_DECAY:
            if RULE == "adamw":
                c = c * (1.0 - lr * decay)
            else:
                g = g + decay * c
        if RULE == "adam" or RULE == "adamw":
            mean = state[k] + without_first * (g - state[k])
            square = second * state[P + k] + without_second * (g * g)
            c = c - lr * a * (mean / (tl.sqrt(square) * b + eps))
            one += (mean,)
            two += (square,)
        elif RULE == "sgd":
            c = c - lr * g
        elif RULE == "momentum" or RULE == "nesterov":
            kept = a * state[k] + b * g
            step = kept
            if RULE == "nesterov":
                step = g + first * kept
            c = c - lr * step
            one += (kept,)
        else:  # rmsprop in its four variants
            tl.static_assert(
                RULE == "rmsprop"
                or RULE == "rmsprop_momentum"
                or RULE == "rmsprop_centered"
                or RULE == "rmsprop_centered_momentum",
                "RULE is not the name of an update rule",
            )
            square = first * state[k] + without_first * (g * g)
            one += (square,)
            if RULE == "rmsprop_centered" or RULE == "rmsprop_centered_momentum":
                mean = state[P + k] + without_first * (g - state[P + k])
                square = square - mean * mean
                two += (mean,)
            step = g / (tl.sqrt(square) + eps)
            if RULE == "rmsprop_momentum":
                step = second * state[P + k] + step
                two += (step,)
            elif RULE == "rmsprop_centered_momentum":
                step = second * state[2 * P + k] + step
                three += (step,)
            c = c - lr * step
        new += (c,)
    return new, one + two + three


@triton.jit
def load_row(ptr, lr_scale):
    """A row of the table: the learning rate times a factor, and the factors a and b."""
    return tl.load(ptr) * lr_scale, tl.load(ptr + 1), tl.load(ptr + 2)


@triton.jit
def load(ptr, COUNT: tl.constexpr):
    """COUNT contiguous numbers as a tuple of scalars."""
    out = ()
    for i in tl.static_range(COUNT):
        out += (tl.load(ptr + i),)
    return out


@triton.jit
def store(ptr, values, COUNT: tl.constexpr):
    """Store a tuple of scalars as COUNT contiguous numbers."""
    for i in tl.static_range(COUNT):
        tl.store(ptr + i, values[i])
