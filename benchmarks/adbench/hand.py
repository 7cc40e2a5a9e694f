"""Hand tracking: the distances of points from the skin of an articulated hand, and their Jacobian in its pose.

The pose has 26 numbers: a rotation of the whole (axis times angle), a translation, and four angles for each of five fingers. The skeleton has 22
bones: two of the wrist and four of each finger, of which three turn, each relative to the one before. A vertex of the skin is moved by all bones,
with weights. In the simple problem a point corresponds to a vertex; in the complicated one to a place of a triangle of vertices with two
coordinates of its own, which are parameters too: of its 2 n + 26 columns the Jacobian has for each row the two that are not zero and 26
(Srajer et al. 2018, section 4.3). Few parameters, many results: forward mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .packages import Function, Package

FINGERS, BONES = 5, 22
VERTICES = {"small": 544, "big": 10_000}
# (vertices, points, complicated)
SIZES = {
    f"{kind} {model} c{points}": (VERTICES[model], points, kind == "complicated")
    for kind in ("simple", "complicated")
    for model in VERTICES
    for points in (100, 200, 400, 800, 1600, 3200, 6400, 12800)
}
QUICK = ("simple small c200", "simple big c1600", "complicated small c200", "complicated big c1600")
TINY = (30, 6, True)


def bound(size: tuple[int, ...]) -> float:
    return 1 + 1.5 * (26 + 2 * size[2])  # forward mode, in so many directions


def instance(size: tuple[int, ...]) -> tuple[Any, ...]:
    vertices, points, complicated = size
    r = np.random.default_rng(0)

    def motions(n: int) -> np.ndarray:
        rotations = np.linalg.qr(r.normal(size=(n, 3, 3)))[0]
        return np.concatenate([rotations, r.normal(size=(n, 3, 1))], 2)

    # each vertex is held by four bones
    weights = np.zeros((BONES, vertices))
    for _ in range(4):
        weights[r.integers(0, BONES, vertices), np.arange(vertices)] += r.uniform(size=vertices)
    hand = (
        motions(BONES),  # each bone in the frame of the one before, at rest
        motions(BONES),  # from the hand's frame to each bone's, at rest
        r.normal(size=(3, vertices)),
        weights / weights.sum(0),
    )
    pose = 0.3 * r.normal(size=26)
    target = r.normal(size=(points, 3))
    if complicated:
        return pose, r.uniform(0, 0.5, size=(points, 2)), *hand, r.integers(0, vertices, (points, 3)), target
    return pose, *hand, r.integers(0, vertices, points), target


def functions(p: Package, size: tuple[int, ...]) -> tuple[Function, Function]:
    """The errors and their Jacobian, of (pose, [coordinates in triangles,] bones at rest, inverses, skin, weights, vertices of points, points)."""
    np = p.np

    def compose(a: Any, b: Any) -> Any:
        """The motion b, then a; each (..., 3, 4)."""
        rotation = a[..., :3]
        return np.concatenate(
            [
                np.einsum("...ij,...jk->...ik", rotation, b[..., :3]),
                np.einsum("...ij,...j->...i", rotation, b[..., 3])[..., None] + a[..., 3:],
            ],
            -1,
        )

    def matrix(rows: Any) -> Any:
        return np.stack([np.stack(row, -1) for row in rows], -2)

    def turn(flexion: Any, abduction: Any, zero: Any) -> Any:
        """A joint's motion: abduction about y after flexion about x."""
        sx, cx, sy, cy = np.sin(flexion), np.cos(flexion), np.sin(abduction), np.cos(abduction)
        return matrix([[cy, sy * sx, sy * cx, zero], [zero, cx, -sx, zero], [-sy, cy * sx, cy * cx, zero]])

    def about_axis(v: Any) -> Any:
        """The rotation about the axis v by the angle |v| (Rodrigues)."""
        angle = np.sqrt(np.sum(v * v, 0))
        a, b, c = v[0] / angle, v[1] / angle, v[2] / angle
        s, k = np.sin(angle), np.cos(angle)
        t = 1 - k
        return matrix(
            [
                [t * a * a + k, t * a * b - s * c, t * a * c + s * b],
                [t * a * b + s * c, t * b * b + k, t * b * c - s * a],
                [t * a * c - s * b, t * b * c + s * a, t * c * c + k],
            ]
        )

    def skin(pose: Any, rest: Any, inverses: Any, vertices: Any, weights: Any) -> Any:
        """The vertices of the posed hand, (3, vertices)."""
        angles = pose[6:].reshape(FINGERS, 4)
        zero = np.zeros((FINGERS,))
        wrist = compose(rest[0], rest[1])
        fingers = rest[2:].reshape(4, FINGERS, 3, 4)
        chain = [compose(wrist, fingers[0])]
        for level, joint in enumerate([(angles[:, 0], angles[:, 1]), (angles[:, 2], zero), (angles[:, 3], zero)]):
            chain.append(compose(chain[-1], compose(fingers[level + 1], turn(*joint, zero))))
        bones = compose(np.concatenate([np.stack([rest[0], wrist], 0), *chain], 0), inverses)
        moved = np.einsum("bij,jv->biv", bones[:, :, :3], vertices) + bones[:, :, 3:]
        return np.einsum("ij,jv->iv", about_axis(pose[:3]), np.sum(moved * weights[:, None], 0)) + pose[3:6][:, None]

    def simple(pose: Any, *args: Any) -> Any:
        *hand, vertices, points = args
        return points - skin(pose, *hand).T[vertices]

    def complicated(pose: Any, places: Any, *args: Any) -> Any:
        *hand, corners, points = args
        vertices = skin(pose, *hand).T
        a, b, c = (vertices[corners[:, k]] for k in range(3))
        u, v = places[:, :1], places[:, 1:]
        return points - (u * a + v * b + (1 - u - v) * c)

    if not size[2]:
        return p.jit(simple), p.jit(p.jacobian(simple))

    along = [p.array(direction) for direction in unit_columns(size[1])]

    def jacobian(pose: Any, places: Any, *args: Any) -> Any:
        own = [p.derivative_along(lambda places: complicated(pose, places, *args), places, direction) for direction in along]
        return p.jacobian(complicated)(pose, places, *args), np.stack(own, -1)

    return p.jit(complicated), p.jit(jacobian)


def unit_columns(points: int) -> list[np.ndarray]:
    """The two directions that carry every point's own coordinates at once: no row depends on those of another point."""
    return [np.tile(direction, (points, 1)) for direction in np.eye(2)]
