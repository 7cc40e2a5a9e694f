"""Calls of jitted functions through native code: what they recognize, what they build, what they leave to Python."""

from __future__ import annotations

import collections
import copy
import gc
import pickle
import sys
import threading
import traceback
import weakref
from typing import Any, NamedTuple

import numpy as np
import pytest
from dispatch_harness import NATIVE, X, check, dispatch_entry, is_native

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.ir.config import config
from tracegrad.runtime import dispatch, dispatch_code, objects, pool
from tracegrad.runtime.array import ArrayImpl, from_numpy
from tracegrad.runtime.jit import JitFunction, jit
from tracegrad.transforms.api import grad
from tracegrad.transforms.vmap import vmap

pytestmark = NATIVE


class Point(NamedTuple):
    x: Any
    y: Any


Pair = collections.namedtuple("Pair", "a b")


class Slope(collections.namedtuple("Slope", "rise run")):
    """A named tuple that does more than hold its items."""

    def __new__(cls, rise: Any, run: Any) -> Slope:
        self = super().__new__(cls, rise, run)
        cls.made += 1
        return self

    made = 0


# ---------------------------------------------------------------------------------------------------------- what is recognized


@pytest.mark.parametrize(
    "x",
    [
        X,
        from_numpy(np.zeros((0, 3), np.float32)),
        from_numpy(np.float32(2.5)),
        from_numpy(np.array([True, False])),
        from_numpy(np.arange(6, dtype=np.int8).reshape(2, 3)),
        from_numpy(np.arange(3) * (1 + 2j)),
        from_numpy(np.arange(100_000, dtype=np.float32)),
        np.arange(5, dtype=np.float32),
        np.arange(6, dtype=np.int32).reshape(3, 2),
        np.array(7, np.int32),
        2.5,
        -3,
        True,
        False,
        1 - 2j,
        float("nan"),
        -(2**31),
        1e-320,
    ],
    ids=lambda x: f"{type(x).__name__}-{getattr(x, 'dtype', x)}-{getattr(x, 'shape', '')}",
)
def test_arrays_and_numbers(x: Any) -> None:
    f = jit(lambda x: (x, x + x) if isinstance(x, ArrayImpl) else x + x)
    check(f, x)


def test_wide_types() -> None:
    with pytest.MonkeyPatch.context():
        config.update("enable_x64", True)
        try:
            f = jit(lambda x: x * 2)
            for x in (2.5, 2**40, 1 - 2j, np.arange(3.0), from_numpy(np.arange(3.0)), True):
                check(f, x)
        finally:
            config.update("enable_x64", False)
    assert f(2.5).dtype == np.float32


def test_bfloat16_and_keys() -> None:
    check(jit(lambda x: x * 2), X.astype(jnp.bfloat16))
    key = tracegrad.random.key(0)
    f = jit(lambda k: (tracegrad.random.split(k), tracegrad.random.uniform(k, (3,))))
    f(key)
    keys, u = f(key)
    assert is_native(keys)
    config.update("compiled_dispatch", False)
    try:
        wanted, v = f(key)
    finally:
        config.update("compiled_dispatch", True)
    assert keys.dtype == wanted.dtype and keys.shape == (2,)
    assert tracegrad.random.key_data(keys).tolist() == tracegrad.random.key_data(wanted).tolist() and u.tolist() == v.tolist()
    assert tracegrad.random.uniform(keys[0]).shape == ()


def test_containers_are_recognized_and_built() -> None:
    f = jit(lambda t: tracegrad.tree_util.tree_map(lambda x: x + 1, t))
    for tree in (
        [X, 2.0, (X, [X])],
        {"b": X, "a": {"c": (X,), "d": None}, "e": []},
        Point(X, Pair(1.0, [X, None])),
        {3: X, 1: X},
        (None, X, ()),
        {"only": np.ones(3, np.float32)},
    ):
        check(f, tree)
    assert isinstance(f(Point(X, X)), Point)


def test_the_order_of_a_dictionary_is_no_matter() -> None:
    f = jit(lambda d: d["a"] - d["b"])
    assert check(f, {"a": X, "b": X * 3}).tolist() == [0, -2, -4, -6]
    assert check(f, {"b": X, "a": X * 3}).tolist() == [0, 2, 4, 6]
    computed = "".join(["lay", "er"])
    g = jit(lambda d: d["layer"])
    check(g, {"layer": X})
    assert is_native(g({"".join(["la", "yer"]): X}))  # equal keys that are other objects
    assert g({computed: X, "more": X}).tolist() == X.tolist()


def test_other_keys_and_sizes_are_not_taken_for_the_same() -> None:
    f = jit(lambda d: sorted(d) and sum(d.values()))
    check(f, {"a": X, "b": X})
    assert f({"a": X, "c": X * 2}).tolist() == (X * 3).tolist()
    assert f({"a": X}).tolist() == X.tolist()
    g = jit(lambda xs: sum(xs))
    check(g, [X, X])
    assert g([X]).tolist() == X.tolist() and g((X, X, X)).tolist() == (X * 3).tolist()
    assert g(Point(X, X)).tolist() == (X * 2).tolist()


def test_containers_that_only_python_can_build() -> None:
    f = jit(lambda x: collections.OrderedDict(b=x, a=[x + 1, Slope(x, x)]))
    f(X)
    Slope.made = 0
    r = f(X)
    assert is_native(r) and type(r) is collections.OrderedDict and list(r) == ["b", "a"]
    assert type(r["a"][1]) is Slope and Slope.made == 1 and r["a"][0].tolist() == [1, 2, 3, 4]
    g = jit(lambda d: d["a"])
    d = collections.OrderedDict(a=X)
    g(d)
    assert g(d).tolist() == X.tolist() and not is_native(g(d))


def test_names_of_arguments() -> None:
    f = jit(lambda x, y=1.0, *, z=2.0: x * y + z)
    assert check(f, X, y=X).tolist() == [2, 3, 6, 11]
    assert check(f, X, z=X, y=2.0).tolist() == check(f, X, y=2.0, z=X).tolist() == [0, 3, 6, 9]
    assert check(f, x=X).tolist() == [2, 3, 4, 5]
    assert is_native(f(*(), **{"x": X}))
    with pytest.raises(TypeError, match="missing 1 required"):
        f()
    with pytest.raises(TypeError, match="unexpected keyword"):
        f(X, w=1)
    g = jit(lambda b, a: b - 2 * a)
    assert check(g, a=X, b=1.0).tolist() == [1, -1, -3, -5]


def test_static_arguments() -> None:
    f = jit(lambda x, n, *, mode: x * n if mode == "times" else x + n, static_argnums=1, static_argnames="mode")
    assert check(f, X, 3, mode="times").tolist() == [0, 3, 6, 9]
    assert check(f, X, 3, mode="plus").tolist() == [3, 4, 5, 6]
    assert f(X, 3.5, mode="plus").tolist() == [3.5, 4.5, 5.5, 6.5]
    assert f(X, True, mode="times").dtype == np.float32


def test_static_arguments_that_are_equal_are_the_same() -> None:
    f = jit(lambda x, n, s: x + n + len(s), static_argnums=(1, 2))
    check(f, X, 1000, "text of some length")
    assert is_native(f(X, int("1000"), "text of " + "some length".lower()))
    assert len(f._tables.chain) == 1
    assert f(X, 1001, "")[0] == 1001 and f(X, 1000.0, "")[0] == 1000
    for n in (int("7"), True, 7.0, 1, 1.0):
        f(X, n, "")
        assert is_native(f(X, n, "")) and f(X, n, "").tolist() == [n, n + 1, n + 2, n + 3]

    shape = jit(lambda x, s: x.reshape(s[0]) * len(s[1]), static_argnums=1)
    check(shape, X, ((4, 1), "ab"))
    for k in (1, 2, 4):
        for name in ("ab", "abc"):
            r = [shape(X, ((4 // int(str(k)), k), name)) for _ in range(2)][1]
            assert is_native(r) and r.shape == (4 // k, k) and r.ravel().tolist() == [i * len(name) for i in range(4)]
    assert shape(X, ([4],)[:0] + ((4,), "a", None)[:2]).tolist() == X.tolist() and len(shape._tables.chain) == 7

    class Odd:
        def __hash__(self) -> int:
            return 5

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Odd)

        def __len__(self) -> int:
            return 2

    for _ in range(3):
        assert f(X, 1, Odd()).tolist() == [3, 4, 5, 6]


def test_misses_and_several_specializations() -> None:
    f = jit(lambda x: x + x)
    many = [
        X,
        from_numpy(np.ones((2, 2), np.float32)),
        1,
        1.0,
        True,
        np.ones(3, np.float32),
        np.ones(3, np.int32),
        1j,
        from_numpy(np.arange(4)),
    ]
    for x in many:
        f(x)
    for x in many * 2:
        r = f(x)
        assert is_native(r) and r.tolist() == (np.asarray(x) + np.asarray(x)).tolist()
    assert f(np.ones(4, np.float32)).shape == (4,)  # one dimension differs
    assert f(np.ones((3, 1), np.float32)).shape == (3, 1)
    assert f(np.ones(3, np.int8)).dtype == np.int8
    weak = jnp.asarray(1.0)
    assert f(weak).weak_type == weak.weak_type
    for n in range(40):
        assert f(np.ones(n, np.float32)).shape == (n,)
    assert len(f._tables.chain) == dispatch.MOST_TABLES and is_native(f(1.0))


def test_numpy_arrays_that_need_a_copy() -> None:
    f = jit(lambda x: x * 2)
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    check(f, a)
    assert f(a.T[:3, :3]).tolist() == (a.T[:3, :3] * 2).tolist()
    wide = np.zeros((3, 8), np.float32)[:, ::2]
    assert f(wide).tolist() == (wide * 2).tolist()
    unaligned = np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(3, 4)
    assert f(unaligned).tolist() == (a * 2).tolist()
    swapped = a.astype(">f4")
    assert f(swapped).tolist() == (a * 2).tolist()
    assert f(a.astype(np.float64)).dtype == np.float32
    assert f(np.ma.masked_array(a)).tolist() == (a * 2).tolist()
    again = pickle.loads(pickle.dumps(a))  # its dtype may be an object of its own
    assert is_native(f(again))


def test_views_do_not_spoil_what_comes_after_them() -> None:
    x = from_numpy(np.arange(16, dtype=np.float32).reshape(4, 4))
    f = jit(lambda x: x + 1)
    for _ in range(6):
        assert f(x.T).tolist() == (x._np.T + 1).tolist()
    check(f, x)
    assert f(x.T).tolist() == (x._np.T + 1).tolist() and is_native(f(x))


def test_numbers_out_of_range() -> None:
    f = jit(lambda x: x + 1)
    check(f, 5)
    for big in (2**31, 2**63, 2**200, -(2**31) - 1):
        with pytest.raises(OverflowError):
            f(big)
    assert f(7).tolist() == 8


def test_subclasses_of_numbers_go_through_python() -> None:
    class Size(int):
        pass

    f = jit(lambda x: x + 1)
    check(f, 5)
    assert f(Size(6)).tolist() == 7
    assert f(np.float32(1.5)).tolist() == 2.5


# ------------------------------------------------------------------------------------------------------------------- what results are


def test_results_that_are_inputs_constants_or_one_another() -> None:
    table = np.arange(3.0)
    f = jit(lambda x, y: (x, x + y, y, jnp.asarray(table), 1.0, x + y, x))
    r = check(f, X, X * 2)
    assert r[0] is not r[6] and r[0].unsafe_buffer_pointer() == X.unsafe_buffer_pointer()
    r[1].delete()
    assert r[5].tolist() == [0, 3, 6, 9]
    made = check(f, r[5], r[5])
    assert made[0].unsafe_buffer_pointer() == r[5].unsafe_buffer_pointer()
    address = r[5].unsafe_buffer_pointer()
    r[5].delete()
    del r
    gc.collect()
    assert made[0].unsafe_buffer_pointer() == address and made[0].tolist() == [0, 3, 6, 9]
    g = jit(lambda x: x)
    mine = np.ones(3, np.float32)
    g(mine)
    out = g(mine)
    mine[:] = 7
    assert out.tolist() == [1, 1, 1]


def test_large_results_come_from_the_pool() -> None:
    x = from_numpy(np.ones(pool.SMALLEST, np.float32))
    f = jit(lambda x: (x + 1, x * 2))
    check(f, x)
    a, b = f(x)
    assert is_native(a) and a.unsafe_buffer_pointer() % 4096 == 0
    view = np.asarray(a)
    a.delete()
    c, d = f(x)
    assert c.unsafe_buffer_pointer() != view.ctypes.data and float(view.sum()) == 2 * view.size
    address = view.ctypes.data
    del view, a
    pool.clear()
    assert float(d.sum()) == 2 * d.size and address
    del x
    assert float(c.sum()) == 2 * c.size


def test_arrays_made_by_calls_are_like_others() -> None:
    f = jit(lambda x: x + 1)
    f(X)
    y = f(X)
    assert is_native(y) and isinstance(y, tracegrad.Array) and repr(y) == "Array([1., 2., 3., 4.], dtype=float32)"
    assert y[1].tolist() == 2 and (y + y).tolist() == [2, 4, 6, 8] and len(y) == 4 and [float(v) for v in y] == [1, 2, 3, 4]
    assert np.asarray(y).tolist() == [1, 2, 3, 4] and y._np.base is y
    assert not np.asarray(y).flags.writeable and np.array(y).flags.writeable
    with pytest.raises(ValueError):
        np.asarray(y).flags.writeable = True
    with pytest.raises(TypeError, match="immutable"):
        y[0] = 1
    with pytest.raises(AttributeError):
        y._info  # noqa: B018
    for z in (pickle.loads(pickle.dumps(y)), copy.copy(y), copy.deepcopy(y)):
        assert type(z) is ArrayImpl and z.tolist() == y.tolist() and z.unsafe_buffer_pointer() != y.unsafe_buffer_pointer()
    dead: list[Any] = []
    r = weakref.ref(y, dead.append)
    assert r() is y and any(y is a for a in tracegrad.live_arrays())
    kept = np.asarray(y)
    del y
    assert r() is not None  # the view keeps it
    del kept
    assert r() is None and dead == [r]
    assert np.from_dlpack(f(X)).tolist() == [1, 2, 3, 4]
    assert sys.getsizeof(f(X)) > 0 and f(X).unsafe_buffer_pointer() % 64 == 0


@pytest.mark.parametrize("n", [1, 3, 4, 15, 16, 17, 60, 64, 100, 1000])
def test_data_lie_inside_their_blocks(n: int) -> None:
    f = jit(lambda x: x + 1)
    x = np.zeros(n, np.int8)
    f(x)
    made = [f(x) for _ in range(200)]
    size = ArrayImpl.__basicsize__ + 2 * objects.WORD
    for y in made:
        assert y.unsafe_buffer_pointer() % 64 == 0 and y.unsafe_buffer_pointer() >= id(y) + size
    numbers = dispatch_code._numbers(objects.layout(), dispatch.array_slots())
    for at in range(0, 256, 16):  # wherever a block begins, its end is behind the data
        start = (at + numbers["PREFIX"] + numbers["BEHIND"]) & -64
        assert at + numbers["PREFIX"] + size <= start and start + n <= at + n + numbers["EXTENT"]


def test_deleted_arrays() -> None:
    f = jit(lambda x: x + 1)
    f(X)
    y = f(X)
    view = np.asarray(y)
    y.delete()
    assert y.is_deleted() and view.tolist() == [1, 2, 3, 4]
    y.delete()
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(y)
    with pytest.raises(RuntimeError, match="deleted"):
        f(y)
    del y, view
    gc.collect()


def test_donated_arguments() -> None:
    f = jit(lambda x: x + 1, donate_argnums=0)
    x = f(f(jnp.arange(4.0)))
    y = f(x)
    assert y.tolist() == [3, 4, 5, 6] and x.is_deleted()


# ------------------------------------------------------------------------------------------------------------ what Python is to decide


def test_transformations_go_through_python() -> None:
    f = jit(lambda x: x * x)
    check(f, 3.0)
    check(f, X)
    assert grad(f)(3.0).tolist() == 6.0
    assert vmap(f)(X).tolist() == [0, 1, 4, 9]
    assert vmap(grad(f))(X).tolist() == [0, 2, 4, 6]
    assert jit(lambda x: f(x) + f(2.0))(3.0).tolist() == 13.0
    seen = []
    jit(lambda x: seen.append(f(X)) or x)(1.0)  # constants of an outer trace: the call is staged, not run
    assert not isinstance(seen[0], ArrayImpl)
    f(3.0)
    assert is_native(f(3.0))


def test_flags_that_change_meanings_go_through_python() -> None:
    f = jit(lambda x: jnp.log(x))
    assert np.isnan(check(f, -1.0))
    with tracegrad.debug_nans(True), pytest.raises(FloatingPointError):
        f(-1.0)
    assert is_native(f(-1.0))
    ran = []
    g = jit(lambda x: ran.append(1) or x + 1)
    check(g, X)
    with tracegrad.disable_jit():
        n = len(ran)
        assert g(X).tolist() == [1, 2, 3, 4] and len(ran) == n + 1
    config.update("debug_nans", True)
    try:
        with pytest.raises(FloatingPointError):
            f(-1.0)
    finally:
        config.update("debug_nans", False)
    with tracegrad.enable_x64():
        assert f(np.float64(2.0)).dtype == np.float64
    assert f(2.0).dtype == np.float32 and is_native(f(2.0))
    config.update("compiled_dispatch", False)
    try:
        assert not is_native(f(2.0)) and not is_native(f(2.0))
        assert f(2.0).tolist() == pytest.approx(np.log(2.0))
    finally:
        config.update("compiled_dispatch", True)
    assert not is_native(f(2.0)) and is_native(f(2.0))


def test_overrides_in_one_thread_are_not_seen_by_another() -> None:
    f = jit(lambda x: x + 1)
    check(f, X)
    found: list[bool] = []
    with tracegrad.debug_nans(True):
        thread = threading.Thread(target=lambda: found.append(is_native(f(X))))
        thread.start()
        thread.join()
        found.append(is_native(f(X)))
    assert found == [True, False]


def test_effects_and_callbacks() -> None:
    inner = jit(lambda x: x * 2)
    check(inner, X)
    seen: list[bool] = []

    def host(x: Any) -> Any:
        r = inner(X)
        seen.append(is_native(r) and is_native(inner(X)))
        return np.asarray(r) + np.asarray(x)

    shape = tracegrad.ShapeDtypeStruct((4,), np.float32)
    f = jit(lambda x: tracegrad.pure_callback(host, shape, x) + 1)
    for _ in range(3):
        assert f(X).tolist() == [1, 4, 7, 10]
    assert seen and all(seen)

    def broken(x: Any) -> Any:
        raise KeyError("broken")

    g = jit(lambda x: tracegrad.pure_callback(broken, shape, x))
    for _ in range(3):
        with pytest.raises(Exception, match="broken"):
            g(X)


def test_exceptions_show_the_place() -> None:
    def wrong(x: Any) -> Any:
        return x @ jnp.ones(7)

    f = jit(wrong)
    for _ in range(3):
        with pytest.raises((TypeError, ValueError)) as e:
            f(X)
        assert "wrong" in "".join(traceback.format_exception(None, e.value, e.value.__traceback__))
    with pytest.raises(TypeError):
        f("text")
    g = jit(lambda x: x + 1)
    check(g, X)
    with pytest.raises(TypeError):
        g(object())
    assert is_native(g(X))


def test_a_kernel_that_fails() -> None:
    f = jit(lambda x: x + 1)
    check(f, X)
    table = f._tables.chain[-1]

    fails = dispatch_entry(lambda *_: 77)
    entry = dispatch.TABLE["entry"]
    before, table.words[entry] = table.words[entry], fails[1]
    base = sys.getrefcount(X)
    try:
        for _ in range(3):
            with pytest.raises(RuntimeError, match="77"):
                f(X)
    finally:
        table.words[entry] = before
    assert sys.getrefcount(X) == base and is_native(f(X))


# --------------------------------------------------------------------------------------------------------------- the function object


def test_the_function_is_an_object_as_before() -> None:
    class Model:
        scale = 3.0

        @jit
        def of(x: Any, y: Any) -> Any:
            return x * y

        @staticmethod
        @jit
        def twice(x: Any) -> Any:
            return x * 2

    class Wrapped(Model):
        @classmethod
        def make(cls) -> Any:
            return check(cls.twice, X)

    assert Wrapped.make().tolist() == [0, 2, 4, 6]
    assert Model().twice(X).tolist() == [0, 2, 4, 6]
    assert isinstance(Model.__dict__["of"].__get__(2.0), type(Model().scale.__add__)) or Model.__dict__["of"].__get__(2.0)(
        X
    ).tolist() == [0, 2, 4, 6]

    @jit
    def f(x: Any, y: Any = 2) -> Any:
        """Doc."""
        return x * y

    check(f, X)
    assert f.__name__ == "f" and f.__doc__ == "Doc." and f.__wrapped__(2) == 4 and repr(f).startswith("<jitted")
    f.note = 5
    assert f.note == 5 and weakref.ref(f)() is f and callable(f)
    for g in (copy.copy(f), copy.deepcopy(f)):
        assert type(g) is JitFunction and g is not f and g(X).tolist() == [0, 2, 4, 6]
    assert f.__call__(X).tolist() == [0, 2, 4, 6]
    f.clear_cache()
    assert not is_native(f(X)) and is_native(f(X))


def test_functions_are_freed() -> None:
    f = jit(lambda x: x + 1)
    check(f, X)
    gone = weakref.ref(f)
    table = weakref_of_buffers(f)
    del f
    gc.collect()
    assert gone() is None and table() is None


def weakref_of_buffers(f: Any) -> Any:
    return weakref.ref(f._tables.chain[0]._kept[0])
