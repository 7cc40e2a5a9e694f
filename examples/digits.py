"""Read handwritten digits: a classifier trained on the 1,797 real images that scikit-learn ships.

    python examples/digits.py [--epochs 60] [--seed 0] [--out examples/output]

A network of three layers, minibatches and Adam. `jit` compiles a whole epoch - the loop over minibatches, the gradient and the optimizer's
update - into one native function; `value_and_grad` differentiates the loss; `vmap` gives the gradient's norm for each example, which shows
the images that the network learns most from. Everything random comes from the seed: the same seed gives the same bits.

Writes two pictures: the curves of loss and accuracy, and the digits of the test set that the network misreads.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

import numpy as onp

import tracegrad as tg
import tracegrad.numpy as np
from tracegrad import lax, nn, random

SIZES = (64, 192, 96, 10)
BATCH = 48
RATE, DECAY = 2e-3, 1e-4


def load(seed: int):
    """The images as rows of 64 numbers in [0, 1] and their labels, split into train (80%) and test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.data / 16.0).astype(onp.float32)
    labels = digits.target.astype(onp.int32)
    order = onp.asarray(random.permutation(random.key(seed), len(images)))
    cut = len(images) * 4 // 5
    train, test = order[:cut], order[cut:]
    return (images[train], labels[train]), (images[test], labels[test])


def init(key):
    """Weights of He et al. (2015), "Delving deep into rectifiers", and zero biases."""
    layers = []
    for k, n_in, n_out in zip(random.split(key, len(SIZES) - 1), SIZES, SIZES[1:]):
        layers.append({"w": random.normal(k, (n_in, n_out)) * np.sqrt(2 / n_in), "b": np.zeros(n_out)})
    return layers


def logits(params, x):
    for layer in params[:-1]:
        x = nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params, x, y):
    """The mean cross-entropy of labels y[n] under the network's reading of images x[n, 64]."""
    log_p = nn.log_softmax(logits(params, x))
    return -np.mean(np.sum(nn.one_hot(y, 10) * log_p, axis=-1))


def adam(params, grads, state):
    """One step of Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019)."""
    m, v, t = state
    t = t + 1
    m = tg.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = tg.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    rate = RATE * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
    params = tg.tree.map(lambda p, m, v: p - rate * m / (np.sqrt(v) + 1e-8) - RATE * DECAY * p, params, m, v)
    return params, (m, v, t)


@tg.jit
def epoch(params, state, key, x, y):
    """One pass over the training set in shuffled minibatches, each image shifted a little and dimmed a little at random."""
    n = x.shape[0] // BATCH
    shuffle, jitter = random.split(key)
    order = random.permutation(shuffle, x.shape[0])[: n * BATCH].reshape(n, BATCH)

    def step(carry, batch):
        params, state = carry
        index, key = batch
        value, grads = tg.value_and_grad(loss)(params, augment(key, x[index]), y[index])
        return adam(params, grads, state), value

    (params, state), losses = lax.scan(step, (params, state), (order, random.split(jitter, n)))
    return params, state, np.mean(losses)


def augment(key, x):
    """Shift each 8x8 image by at most half a pixel (a blend of neighbours) and scale its brightness."""
    k1, k2, k3 = random.split(key, 3)
    images = x.reshape(-1, 8, 8)
    for axis, k in ((1, k1), (2, k2)):
        t = random.uniform(k, (images.shape[0], 1, 1), minval=-0.5, maxval=0.5)
        images = np.where(
            t > 0, (1 - t) * images + t * np.roll(images, 1, axis), (1 + t) * images - t * np.roll(images, -1, axis)
        )
    images = images * random.uniform(k3, (images.shape[0], 1, 1), minval=0.9, maxval=1.1)
    return images.reshape(-1, 64)


@tg.jit
def accuracy(params, x, y):
    return np.mean(np.argmax(logits(params, x), axis=-1) == y)


@tg.jit
def gradient_norms(params, x, y):
    """For each example the norm of the gradient of its own loss: how much it would change the network."""

    def one(x, y):
        grads = tg.grad(loss)(params, x[None], y[None])
        return np.sqrt(sum(np.sum(g**2) for g in tg.tree.leaves(grads)))

    return tg.vmap(one)(x, y)


def progress(done: int, total: int, text: str) -> None:
    width = 30
    bar = "#" * (width * done // total)
    end = "\n" if done == total else ""
    print(f"\r[{bar:<{width}}] {done}/{total}  {text}", end=end, file=sys.stderr, flush=True)


def train(epochs: int, seed: int, show=progress):
    (x, y), (tx, ty) = load(seed)
    key_init, key_train = random.split(random.key(seed + 1))
    params = init(key_init)
    zeros = tg.tree.map(np.zeros_like, params)
    state = (zeros, zeros, np.zeros((), np.int32))
    history = []
    for i in range(epochs):
        params, state, value = epoch(params, state, random.fold_in(key_train, i), x, y)
        history.append((float(value), float(accuracy(params, x, y)), float(accuracy(params, tx, ty))))
        show(i + 1, epochs, f"loss {history[-1][0]:.4f}  train {history[-1][1]:.2%}  test {history[-1][2]:.2%}")
    return params, history, (x, y), (tx, ty)


def digest(params) -> str:
    """A fingerprint of all weights, to the last bit."""
    h = hashlib.sha256()
    for leaf in tg.tree.leaves(params):
        h.update(onp.asarray(leaf).tobytes())
    return h.hexdigest()[:16]


def draw(out: Path, history, params, test) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.semilogy([h[0] for h in history], color="tab:blue")
    left.set(xlabel="epoch", ylabel="training loss", title="cross-entropy")
    right.plot([1 - h[1] for h in history], label="train", color="tab:blue")
    right.plot([1 - h[2] for h in history], label="test", color="tab:orange")
    right.set(xlabel="epoch", ylabel="share misread", title="errors", yscale="log")
    right.legend(frameon=False)
    figure.savefig(out / "digits_loss.png", dpi=130)
    plt.close(figure)

    x, y = test
    guess = onp.asarray(np.argmax(logits(params, x), axis=-1))
    norms = onp.asarray(gradient_norms(params, x, y))
    wrong = onp.flatnonzero(guess != y)
    columns = max(len(wrong), 1)
    figure, axes = plt.subplots(1, columns, figsize=(1.3 * columns + 1, 2.2), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, wrong):
        axis.imshow(x[i].reshape(8, 8), cmap="gray_r")
        axis.set_title(f"{y[i]} read as {guess[i]}\n|g| = {norms[i]:.1f}", fontsize=8)
    figure.suptitle(f"the {len(wrong)} misread of {len(y)} test digits, with their gradients' norms", fontsize=9)
    figure.savefig(out / "digits_misread.png", dpi=130)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output")
    args = parser.parse_args()
    start = time.perf_counter()
    params, history, train_set, test = train(args.epochs, args.seed)
    seconds = time.perf_counter() - start
    norms = onp.asarray(gradient_norms(params, *test))
    draw(args.out, history, params, test)
    print(f"test accuracy {history[-1][2]:.2%} after {args.epochs} epochs in {seconds:.1f} s")
    print(f"gradient norms of test examples: median {onp.median(norms):.2e}, largest {norms.max():.1f}")
    print(f"weights {digest(params)} (the same for the same seed)")
    print(f"pictures: {args.out / 'digits_loss.png'}, {args.out / 'digits_misread.png'}")


if __name__ == "__main__":
    main()
