"""Logistic regression from scratch: three optimizers, one loss, derivatives of first and second order.

    python examples/logistic_regression.py [--out examples/output]

The data: 569 biopsies described by 30 measurements, benign or malignant (the breast-cancer set of scikit-learn). The loss is written once;
`grad` gives gradient descent, `grad` and `hessian` give Newton's method, and a Hessian-vector product (`jvp` of `grad`) gives
Newton's method by conjugate gradients without ever forming the Hessian. Each optimizer is one compiled function.

Writes a picture: how fast each converges, and how well the fitted probabilities separate the test set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as onp

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax, nn

PENALTY = 1e-2


def load():
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x = (data.data - data.data.mean(0)) / data.data.std(0)
    x = onp.concatenate([x, onp.ones((len(x), 1))], 1).astype(onp.float32)
    y = data.target.astype(onp.float32)
    order = onp.random.default_rng(0).permutation(len(x))
    cut = 400
    return (x[order[:cut]], y[order[:cut]]), (x[order[cut:]], y[order[cut:]])


def loss(w, x, y):
    """Mean negative log-likelihood of labels y[n] in {0, 1} under weights w[31], with a quadratic penalty."""
    z = x @ w
    return np.mean(nn.softplus(z) - y * z) + 0.5 * PENALTY * np.sum(w * w)


@tg.jit
def gradient_descent(w, x, y):
    """100 steps of gradient descent; returns the weights and the loss before each step."""

    def step(w, _):
        value, g = tg.value_and_grad(loss)(w, x, y)
        return w - 1.0 * g, value

    return lax.scan(step, w, None, length=100)


@tg.jit
def newton(w, x, y):
    """10 Newton steps with the full Hessian, solved by Cholesky factorization."""

    def step(w, _):
        value, g = tg.value_and_grad(loss)(w, x, y)
        h = tg.hessian(loss)(w, x, y)
        return w - np.linalg.solve(h, g), value

    return lax.scan(step, w, None, length=10)


@tg.jit
def newton_cg(w, x, y):
    """10 Newton steps whose systems are solved by conjugate gradients on Hessian-vector products."""

    def solve(w, g):
        def product(v):
            return tg.jvp(lambda w: tg.grad(loss)(w, x, y), (w,), (v,))[1]

        def step(state):
            s, r, p, rr, k = state
            hp = product(p)
            alpha = rr / (p @ hp)
            r = r - alpha * hp
            new = r @ r
            return s + alpha * p, r, r + new / rr * p, new, k + 1

        state = (np.zeros_like(g), g, g, g @ g, 0)
        return lax.while_loop(lambda s: (s[3] > 1e-12) & (s[4] < 50), step, state)[0]

    def step(w, _):
        value, g = tg.value_and_grad(loss)(w, x, y)
        return w - solve(w, g), value

    return lax.scan(step, w, None, length=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    args = parser.parse_args()
    train, test = load()
    w0 = onp.zeros(train[0].shape[1], onp.float32)
    runs = {}
    for optimizer in (gradient_descent, newton, newton_cg):
        w, losses = optimizer(w0, *train)
        runs[optimizer.__name__] = (onp.asarray(w), onp.asarray(losses))
        right = onp.mean((test[0] @ runs[optimizer.__name__][0] > 0) == (test[1] > 0.5))
        print(f"{optimizer.__name__:17s} final loss {losses[-1]:.6f}  test accuracy {right:.2%}")
    draw(args.out, runs, test)
    print(f"picture: {args.out / 'logistic_regression.png'}")


def draw(out: Path, runs, test) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    best = min(losses.min() for _, losses in runs.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, (_, losses) in runs.items():
        left.semilogy(losses - best + 1e-8, label=name.replace("_", " "), marker="." if len(losses) < 20 else "")
    left.set(xlabel="step", ylabel="loss above the best", title="convergence")
    left.legend(frameon=False)
    z = test[0] @ runs["newton"][0]
    for label, text, color in ((0, "malignant", "tab:red"), (1, "benign", "tab:blue")):
        right.hist(1 / (1 + onp.exp(-z[test[1] == label])), bins=onp.linspace(0, 1, 26), alpha=0.6, label=text, color=color)
    right.set(xlabel="fitted probability of benign", ylabel="test biopsies", title="separation")
    right.legend(frameon=False)
    figure.savefig(out / "logistic_regression.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
