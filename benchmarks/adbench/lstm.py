"""LSTM: the loss of a character model of several layers over a sequence, a gradient through all its steps.

Gates are elementwise, as in ADBench: with the input x, the hidden value h and the cell c of a layer, and four vectors of weights and of biases,

    c' = c * sigmoid(w0 x + b0) + sigmoid(w1 h + b1) * tanh(w3 h + b3),    h' = sigmoid(w2 x + b2) * tanh(c').

The input of the first layer is the character scaled, the last h' is scaled and shifted into a prediction y, and the loss is minus the mean over
steps and bits of next character * (y - log(2 + sum exp y)) (Srajer et al. 2018 and the ADBench of 2019 that added it). A long scan of short vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .packages import Function, Package

BITS = 14
SIZES = {f"l{layers} c{length}": (layers, length, BITS) for layers in (2, 4) for length in (1024, 4096)}
QUICK = ("l2 c1024", "l4 c1024")
TINY = (2, 6, 3)
BOUND = 4.0


def instance(size: tuple[int, ...]) -> tuple[Any, ...]:
    layers, length, bits = size
    r = np.random.default_rng(0)
    return (
        r.normal(size=(layers, 2, 4, bits)),
        r.normal(size=(3, bits)),
        r.normal(size=(layers, 2, bits)),
        r.integers(0, 2, (length, bits)).astype(np.float64),
    )


def functions(p: Package, size: tuple[int, ...]) -> tuple[Function, Function]:
    """The loss and its gradient, of (weights and biases of the layers, those around them, the first state, the sequence)."""
    layers, length, bits = size
    np = p.np

    def sigmoid(x: Any) -> Any:
        return 1 / (1 + np.exp(-x))

    def loss(main: Any, extra: Any, state: Any, sequence: Any) -> Any:
        def step(carry: Any, x: Any) -> Any:
            x = x * extra[0]
            after = []
            for layer, (h, c) in enumerate(carry):
                w, b = main[layer, 0], main[layer, 1]
                forget, output = sigmoid(x * w[0] + b[0]), sigmoid(x * w[2] + b[2])
                c = c * forget + sigmoid(h * w[1] + b[1]) * np.tanh(h * w[3] + b[3])
                x = output * np.tanh(c)
                after.append((x, c))
            return tuple(after), x * extra[1] + extra[2]

        _, y = p.scan(step, tuple((state[k, 0], state[k, 1]) for k in range(layers)), sequence[:-1])
        normalized = y - np.log(2 + np.sum(np.exp(y), 1))[:, None]
        return -np.sum(sequence[1:] * normalized) / ((length - 1) * bits)

    return p.jit(loss), p.jit(p.gradient(loss, 2))
