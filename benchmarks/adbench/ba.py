"""Bundle adjustment: the errors of points projected into cameras, and their sparse Jacobian.

A camera has a rotation (axis times angle), a centre, a focal length, a principal point and two coefficients of radial distortion: 11 numbers. An
observation is a camera, a point, a weight and the place where the point was seen; its error is weight * (projection - place), two numbers that
depend on 11 + 3 + 1 parameters. Beside them stands the error 1 - weight^2 of each weight. The Jacobian is a block of 2 x 15 for each observation
and a number for each weight (Srajer et al. 2018, section 4.2). Rotations of the data are never zero, where the formula would need a limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .packages import Function, Package

# (cameras, points, observations)
SIZES = {
    "ba1 p31843": (49, 7776, 31843),
    "ba2 p36455": (21, 11315, 36455),
    "ba3 p182072": (161, 48126, 182072),
    "ba4 p204472": (372, 47423, 204472),
    "ba5 p225911": (257, 65132, 225911),
}
QUICK = ("ba1 p31843", "ba3 p182072")
TINY = (3, 5, 8)
BOUND = 1.5 + 2.5 * 2  # reverse mode, two rows


def instance(size: tuple[int, ...]) -> tuple[Any, ...]:
    n, m, p = size
    r = np.random.default_rng(0)
    cameras = np.concatenate(
        [
            0.1 * r.normal(size=(n, 3)),
            r.normal(size=(n, 3)) - [0, 0, 10],
            r.uniform(1, 2, size=(n, 1)),
            0.1 * r.normal(size=(n, 2)),
            0.01 * r.normal(size=(n, 2)),
        ],
        1,
    )
    return (
        cameras,
        r.normal(size=(m, 3)),
        r.uniform(0.5, 1.5, size=p),
        r.integers(0, n, p),
        r.integers(0, m, p),
        r.normal(size=(p, 2)),
    )


def functions(p: Package, size: tuple[int, ...]) -> tuple[Function, Function]:
    """The errors and their Jacobian, of (cameras, points, weights, camera of each observation, its point, the place seen)."""
    np = p.np

    def project(camera: Any, point: Any) -> Any:
        axis = camera[..., :3]
        x = point - camera[..., 3:6]
        angle = np.sqrt(np.sum(axis * axis, -1))[..., None]
        axis = axis / angle
        a, b, c = axis[..., 0], axis[..., 1], axis[..., 2]
        u, v, w = x[..., 0], x[..., 1], x[..., 2]
        cross = np.stack([b * w - c * v, c * u - a * w, a * v - b * u], -1)
        cosine = np.cos(angle)
        turned = x * cosine + cross * np.sin(angle) + axis * (np.sum(axis * x, -1)[..., None] * (1 - cosine))
        plane = turned[..., :2] / turned[..., 2:]
        r2 = np.sum(plane * plane, -1)[..., None]
        distortion = 1 + camera[..., 9:10] * r2 + camera[..., 10:11] * (r2 * r2)
        return plane * distortion * camera[..., 6:7] + camera[..., 7:9]

    def error(camera: Any, point: Any, weight: Any, seen: Any) -> Any:
        return weight[..., None] * (project(camera, point) - seen)

    errors, blocks = p.blocks(error, 3)

    def objective(cameras: Any, points: Any, weights: Any, i: Any, j: Any, seen: Any) -> Any:
        return errors(cameras[i], points[j], weights, seen), 1 - weights * weights

    def jacobian(cameras: Any, points: Any, weights: Any, i: Any, j: Any, seen: Any) -> Any:
        return *blocks(cameras[i], points[j], weights, seen), -2 * weights

    return p.jit(objective), p.jit(jacobian)
