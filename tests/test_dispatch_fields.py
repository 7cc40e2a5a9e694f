"""Native calls with registered dataclasses: what is read of them, what is made of them, and classes that change."""

from __future__ import annotations

import dataclasses
import gc
import sys
from typing import Any

import numpy as np
import pytest
from dispatch_harness import NATIVE, X, check, is_native

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.runtime import dispatch, objects
from tracegrad.runtime.jit import jit
from tracegrad.tree_util import register_dataclass, register_pytree_node_class

pytestmark = [*NATIVE, pytest.mark.skipif(not objects.have_versions(), reason="types have no versions where they are looked for")]


@register_dataclass
@dataclasses.dataclass
class State:
    step: Any
    params: Any
    name: Any = dataclasses.field(default="sgd", metadata={"static": True})
    rate: Any = dataclasses.field(default=3, metadata={"static": True})


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Layer:
    w: Any
    b: Any = None


@dataclasses.dataclass
class Slotted:
    __slots__ = ("a", "b")
    a: Any
    b: Any


register_dataclass(Slotted, ["b", "a"], [])


@register_dataclass
@dataclasses.dataclass(kw_only=True)
class Named:
    x: Any
    n: Any = dataclasses.field(default=1, metadata={"static": True})


@register_dataclass
@dataclasses.dataclass
class Derived(Named):
    y: Any = 2.0
    made: Any = dataclasses.field(default=0, init=False)

    def __post_init__(self) -> None:
        self.made = self.made + 1


def twice(t: Any) -> Any:
    return tracegrad.tree_util.tree_map(lambda x: x * 2, t)


@pytest.mark.parametrize(
    "tree",
    [
        State(1, {"w": X}),
        State(X, [Layer(X), Layer(X, X + 1)], "adam", 2.5),
        Layer(State(X, None), (Layer(np.ones(3)),)),
        Slotted(X, np.float32(3)),
        Named(x=X, n=7),
        Derived(x=X, y=Layer(X, 3.0), n=None),
        {"a": Layer(X), "b": [Slotted(X, 2)]},
    ],
    ids=lambda t: type(t).__name__,
)
def test_values_and_structures(tree: Any) -> None:
    result = check(jit(twice), tree)
    assert type(result) is type(tree)


def test_what_is_made_is_made_by_the_constructor() -> None:
    f = jit(twice)
    f(Derived(x=X)), f(Derived(x=X))
    r = f(Derived(x=X))
    assert is_native(r) and r.made == 1 and r.n == 1 and r.x.tolist() == (X * 2).tolist() and r.y.tolist() == 4
    s = State(X, X, rate=(1, "a"))
    f(s), f(s)
    assert f(s).rate == (1, "a") and is_native(f(s)) and is_native(f(f(s)))
    slotted = Slotted(X, X + 1)
    check(f, slotted)
    assert f(slotted).b.tolist() == (X * 2 + 2).tolist() and f(slotted).a.tolist() == (X * 2).tolist()


def test_other_metadata_and_children_are_not_taken_for_the_same() -> None:
    f = jit(lambda s: (s.step * s.rate + len(s.name), s))
    for _ in range(3):
        for rate in (2, 2.0, True, 3):
            for name in ("a", "bcd"):
                s = State(X, 1.0, name, rate)
                y, t = f(s)
                assert y.tolist() == (X * rate + len(name)).tolist() and type(t.rate) is type(rate) and t.name == name
    assert is_native(f(State(X, 1.0, "a", 2)))
    assert f(State(X, [1.0], "a", 2))[1].params[0].tolist() == 1
    assert f(State(X[:2], 1.0, "a", 2))[0].shape == (2,)
    extra = State(X, 1.0)
    extra.more = 5
    assert f(extra)[0].tolist() == (X * 3 + 3).tolist()

    class Sub(State):
        """Not registered: a leaf that is no array."""

    with pytest.raises(TypeError):
        f(Sub(X, 1.0))
    del extra.step
    with pytest.raises(AttributeError, match="step"):
        f(extra)
    big = State(X, 1.0, rate=(1, 2))
    g = jit(lambda s: s.step + s.rate[0])
    for _ in range(3):
        assert g(dataclasses.replace(big, rate=(int("1"), 2))).tolist() == (X + 1).tolist()


def test_classes_that_change() -> None:
    @register_dataclass
    @dataclasses.dataclass
    class Base:
        w: Any

    @register_dataclass
    @dataclasses.dataclass
    class P(Base):
        a: Any
        b: Any = 1.0

    f = jit(lambda p: p.a + p.b + p.w)
    p = P(1.0, X)
    assert check(f, p).tolist() == (X + 2).tolist()
    P.b = 7.0  # a default that another instance may read
    assert f(p).tolist() == (X + 2).tolist()
    assert check(f, p).tolist() == (X + 2).tolist()
    del p.b
    assert f(p).tolist() == (X + 8).tolist()
    read = []

    def get(self: Any) -> Any:
        read.append(self)
        return X * 10

    P.b = property(get, lambda self, x: None)
    for _ in range(3):
        assert f(p).tolist() == (X * 11 + 1).tolist() and not is_native(f(p))
    assert len(read) >= 6
    del P.b
    with pytest.raises(AttributeError):
        f(p)
    p.b = 3.0
    assert check(f, p).tolist() == (X + 4).tolist()
    Base.w = property(get, lambda self, x: None)
    assert f(p).tolist() == (X * 11 + 3).tolist()
    del Base.w
    assert check(f, p).tolist() == (X + 4).tolist()
    P.__getattribute__ = lambda self, name: 2.0 if name == "b" else object.__getattribute__(self, name)
    for _ in range(3):
        assert f(p).tolist() == (X + 3).tolist()
    del P.__getattribute__
    del p.b
    P.__getattr__ = lambda self, name: 5.0
    for _ in range(3):
        assert f(p).tolist() == (X + 6).tolist() and not is_native(f(p))


def test_containers_with_code_of_their_own() -> None:
    @register_pytree_node_class
    class Pair:
        def __init__(self, a: Any, b: Any):
            self.a, self.b = a, b

        def tree_flatten(self) -> Any:
            return (self.a, self.b), "meta"

        @classmethod
        def tree_unflatten(cls, aux: Any, children: Any) -> Any:
            assert aux == "meta" and type(children) is tuple
            return cls(*children)

    f = jit(lambda x: [Pair(x, Layer(Pair(x + 1, None), x)), x])
    check(f, X)
    r = f(X)
    assert is_native(r) and r[0].b.w.a.tolist() == [1, 2, 3, 4] and r[0].b.w.b is None
    g = jit(lambda p: p.a + p.b)
    for _ in range(4):
        assert g(Pair(X, X)).tolist() == (X * 2).tolist()

    class Refuses(Exception):
        pass

    @register_dataclass
    @dataclasses.dataclass
    class Strict:
        x: Any

        def __post_init__(self) -> None:
            if allowed == 0:
                raise Refuses

    allowed = 1
    h = jit(lambda x: (x, Strict(x + 1)))
    check(h, X)
    allowed = 0
    gc.collect()
    count, alive = sys.getrefcount(X), len(dispatch.live_arrays())
    for _ in range(5):
        with pytest.raises(Refuses):
            h(X)
    gc.collect()
    assert sys.getrefcount(X) == count and len(dispatch.live_arrays()) <= alive


def test_donated_states() -> None:
    f = jit(lambda s, g: dataclasses.replace(s, step=s.step + 1, params=s.params - g), donate_argnums=0)
    s = State(jnp.zeros((), jnp.int32), jnp.zeros(4))
    for _ in range(5):
        old, s = s, f(s, X)
    assert is_native(s) and s.step.tolist() == 5 and s.params.tolist() == (X * -5).tolist()
    assert old.step.is_deleted() and old.params.is_deleted() and old.name == "sgd"


def test_reference_counts() -> None:
    s = State(X, {"w": Layer(np.arange(4.0), X)}, rate=(5, 6))
    f = jit(lambda s: (twice(s), s.params["w"]))
    check(f, s)
    watched = [s, X, s.params, s.params["w"], s.params["w"].w, s.rate, State, Layer, s.name]
    gc.collect()
    before = [sys.getrefcount(o) for o in watched]
    for _ in range(50):
        f(s)
    gc.collect()
    assert [sys.getrefcount(o) for o in watched] == before


def test_allocations_that_fail() -> None:
    testcapi = pytest.importorskip("_testcapi")
    s = State(X, Layer(X, X))
    f = jit(twice)
    check(f, s)
    gc.collect()
    counts, alive = (sys.getrefcount(X), sys.getrefcount(State)), len(dispatch.live_arrays())
    failures = 0
    for n in range(1, 40):
        testcapi.set_nomemory(n, n + 1)
        try:
            r = f(s)
        except MemoryError:
            failures += 1
            continue
        finally:
            testcapi.remove_mem_hooks()
        assert r.params.w.tolist() == [0, 2, 4, 6]
        del r
    gc.collect()
    assert failures >= 5 and (sys.getrefcount(X), sys.getrefcount(State)) == counts and len(dispatch.live_arrays()) == alive
