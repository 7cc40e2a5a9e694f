"""Random keys: making, splitting and looking into them; and the bits that a key stands for.

A key is two 32-bit words. A *typed* key (dtype `key<fry>`) is an array of keys; a *raw* key is a uint32 array whose last axis has
size 2. Every function takes both and gives back the kind it was given. The functions of this file that work on words, `words`,
`fork` and `random_bits`, are what the samplers are made of.

The stream of a key is Threefry-2x32 applied to the 64-bit position of each number in row-major order, so that shorter draws are
prefixes of longer ones. With `threefry_partitionable` false the older layout is used, in which counters are split into halves.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracegrad.ir import ops
from tracegrad.ir.array import Array
from tracegrad.ir.bind import is_eager, type_of
from tracegrad.ir.config import config
from tracegrad.ir.random import threefry2x32_p
from tracegrad.ir.types import KeyDType, is_integer, is_key
from tracegrad.ir.types import key_dtype as _key_dtype
from tracegrad.lax.operands import value
from tracegrad.numpy.promotion import stage
from tracegrad.runtime.array import ArrayImpl, from_numpy, keys_from_words
from tracegrad.runtime.jit import jit

U32 = np.dtype(np.uint32)
IMPL = "threefry2x32"


class Words(NamedTuple):
    """The two words of one key: uint32 scalars, traced or not."""

    k0: Any
    k1: Any


def _check_impl(impl: Any) -> None:
    """Raise ValueError for a generator that does not exist."""
    if impl is None or isinstance(impl, KeyDType) or getattr(impl, "name", None) == IMPL:
        return
    if not isinstance(impl, str):
        raise TypeError(f"unrecognized type {type(impl)} for specifying PRNG implementation.")
    if impl != IMPL:
        raise ValueError(f'unrecognized PRNG implementation "{impl}". The only one is "{IMPL}".')


def _seed_words(name: str, seed: Any) -> Any:
    """The words of a new key, as a uint32[2] array."""
    if isinstance(seed, (bool, int, np.integer, np.bool_)):
        wide = 64 if config.enable_x64 and not (isinstance(seed, np.integer) and seed.itemsize < 8) else 32
        bits = int(seed) & ((1 << wide) - 1)
        return stage(np.array([bits >> 32, bits & 0xFFFFFFFF], U32))
    seed = value(name, seed)
    t = type_of(seed)
    if is_key(t.dtype):
        raise TypeError(f"{name} accepts a scalar seed, but was given a PRNG key.")
    if t.shape:
        raise TypeError(
            f"{name} accepts a scalar seed, but was given an array of shape {t.shape} != (). Use tracegrad.vmap for batching"
        )
    if not is_integer(t.dtype):
        raise TypeError(f"PRNG key seed must be an integer; got {t}")
    low = ops.convert_element_type(seed, U32)
    high: Any = np.uint32(0)
    if t.dtype.itemsize == 8:
        high = ops.convert_element_type(ops.shift_right_logical(seed, t.dtype.type(32)), U32)
    return _pair(ops.reshape(high, (1,)), ops.reshape(low, (1,)))


def _pair(a: Any, b: Any) -> Any:
    return ops.concatenate([a, b], len(type_of(a).shape) - 1)


def _stack(k0: Any, k1: Any, shape: tuple[int, ...]) -> Any:
    """Words of shape `shape` along a new last axis."""
    return _pair(
        *[ops.reshape(ops.broadcast_in_dim(k, shape, ()) if type_of(k).shape != shape else k, (*shape, 1)) for k in (k0, k1)]
    )


def key(seed: Any, *, impl: Any = None, dtype: Any = None) -> Any:
    """A typed key from an integer seed, which may be traced."""
    if dtype is not None and impl is not None:
        raise ValueError("Cannot specify both `impl` and `dtype` arguments to random.key")
    _check_impl(impl if dtype is None else dtype)
    return ops.key_wrap(_seed_words("key", seed))


def PRNGKey(seed: Any, *, impl: Any = None) -> Any:
    """A raw key, uint32[2], from an integer seed, which may be traced."""
    _check_impl(impl)
    return _seed_words("PRNGKey", seed)


def _checked(name: str, key: Any) -> tuple[Any, bool, tuple[int, ...]]:
    """A key argument: its raw words (..., 2), whether it is typed, and the shape of the array of keys."""
    if not isinstance(key, (Array, np.ndarray)) and not hasattr(key, "__jax_array__"):
        raise TypeError(
            f"{name} encountered invalid PRNG key data: expected a key made by random.key or random.PRNGKey, got {key!r:.100}"
        )
    key = value(name, key)
    t = type_of(key)
    if is_key(t.dtype):
        return ops.key_unwrap(key), True, t.shape
    if t.dtype != U32:
        raise TypeError(f"{name} encountered invalid PRNG key data: expected key_data.dtype = uint32; got dtype={t.dtype}")
    if t.shape[-1:] != (2,):
        raise TypeError(
            f"{name} encountered invalid PRNG key data: expected key_data.shape to end with (2,); got shape={t.shape}"
        )
    return key, False, t.shape[:-1]


def words(name: str, key: Any) -> Words:
    """The words of a single key. TypeError for what is not a key, ValueError for an array of several."""
    return single(name, key)[0]


def single(name: str, key: Any) -> tuple[Words, bool]:
    """The words of a single key, and whether it is typed."""
    if type(key) is ArrayImpl and is_eager():
        # Words known now: the operations that would pick them are not worth their time. Inside of a traced function they would become
        # part of the program, which would then be compiled for every key.
        words = key._np
        if words.shape == (2,) and words.dtype == U32:
            return Words(words[0], words[1]), is_key(key.aval.dtype)
    data, typed, shape = _checked(name, key)
    if shape:
        raise ValueError(
            f"{name} accepts a single key, but was given a key array of shape {shape} != (). Use tracegrad.vmap for batching."
        )
    return Words(ops.reshape(ops.slice(data, (0,), (1,)), ()), ops.reshape(ops.slice(data, (1,), (2,)), ())), typed


def _known(key: Words) -> bool:
    """Whether a key's words are known and nothing is being traced: then NumPy is asked directly."""
    return isinstance(key.k0, np.uint32) and isinstance(key.k1, np.uint32) and is_eager() and bool(config.threefry_partitionable)


def _encipher_now(key: Words, *counters: Any) -> Sequence[np.ndarray]:
    return threefry2x32_p.evaluate(*[np.asarray(x) for x in (*key, *counters)])


def _wrapped(words: np.ndarray, typed: bool) -> Any:
    return keys_from_words(words) if typed else from_numpy(words, copy=False)


def _num(name: str, num: Any) -> tuple[int, ...]:
    dims = tuple(num) if isinstance(num, (tuple, list)) else (num,)
    return tuple([operator.index(d) for d in dims])


def split(key: Any, num: int | tuple[int, ...] = 2) -> Any:
    """`num` (a number, or a shape) new keys from one, which should not be used again."""
    parent, typed = single("split", key)
    shape = _num("split", num)
    if _known(parent):
        counters = np.arange(math.prod(shape), dtype=U32)
        return _wrapped(np.stack(_encipher_now(parent, np.uint32(0), counters), -1).reshape(*shape, 2), typed)
    data = _split_data(parent, shape)
    return ops.key_wrap(data) if typed else data


def _split_data(parent: Words, shape: tuple[int, ...]) -> Any:
    if config.threefry_partitionable:
        return _stack(*ops.threefry2x32(*parent, *_counters(shape)), shape)
    return ops.reshape(_encipher(parent, 2 * math.prod(shape)), (*shape, 2))


def fork(parent: Words, n: int = 2) -> list[Words]:
    """The first `n` children of a key, as `split` makes them, as scalars."""
    if _known(parent):
        y0, y1 = _encipher_now(parent, np.uint32(0), np.arange(n, dtype=U32))
        return [Words(a, b) for a, b in zip(y0, y1)]
    if config.threefry_partitionable:
        return [Words(*ops.threefry2x32(*parent, np.uint32(0), np.uint32(i))) for i in range(n)]
    data = _split_data(parent, (n,))
    return [Words(*[ops.reshape(ops.slice(data, (i, j), (i + 1, j + 1)), ()) for j in range(2)]) for i in range(n)]


def split_words(parent: Words, n: int) -> Words:
    """The words of `n` children of a key, as two uint32[n] arrays."""
    if config.threefry_partitionable:
        return Words(*ops.threefry2x32(*parent, *_counters((n,))))
    data = _split_data(parent, (n,))
    return Words(*[ops.reshape(ops.slice_in_dim(data, i, i + 1, 1, 1), (n,)) for i in range(2)])


def fold_in(key: Any, data: Any) -> Any:
    """A new key from a key and an integer, such as the number of a step."""
    parent, typed = single("fold_in", key)
    if isinstance(data, (int, np.integer)) and not isinstance(data, bool):
        number = int(data)
        if not 0 <= number <= 0xFFFFFFFF and isinstance(data, int):
            raise OverflowError(f"Python integer {number} out of bounds for uint32")
        low: Any = np.uint32(number & 0xFFFFFFFF)
    else:
        data = value("fold_in", data, 1)
        t = type_of(data)
        if t.shape:
            raise TypeError(
                f"fold_in accepts a scalar, but was given an array of shape {t.shape} != (). Use tracegrad.vmap for batching."
            )
        low = data if t.dtype == U32 else ops.convert_element_type(data, U32)
    if isinstance(low, np.uint32) and _known(parent):
        return _wrapped(np.stack(_encipher_now(parent, np.uint32(0), low)), typed)
    out = _stack(*ops.threefry2x32(*parent, np.uint32(0), low), ())
    return ops.key_wrap(out) if typed else out


def key_data(keys: Any) -> Any:
    """The words of keys, along a new last axis."""
    return _checked("key_data", keys)[0]


def wrap_key_data(key_bits_array: Any, *, impl: Any = None, dtype: Any = None) -> Any:
    """The typed keys with these words along the last axis."""
    if dtype is not None and impl is not None:
        raise ValueError("Cannot specify both `impl` and `dtype` arguments to random.wrap_key_data")
    _check_impl(impl if dtype is None else dtype)
    data, typed, _ = _checked("wrap_key_data", key_bits_array)
    if typed:
        raise TypeError("wrap_key_data takes the uint32 words of keys, got keys; use them as they are")
    return ops.key_wrap(data)


def key_impl(keys: Any) -> str:
    """The name of the keys' generator."""
    _checked("key_impl", keys)
    return IMPL


def key_dtype(impl_spec: Any = None) -> KeyDType:
    """The dtype of typed keys of a generator."""
    _check_impl(impl_spec)
    return _key_dtype()


def clone(key: Any) -> Any:
    """The same key, for a deliberate second use."""
    _checked("clone", key)
    return ops.copy(key)


# Bits.
def _counters(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """The high and low words of the row-major position of every element."""
    size = math.prod(shape)
    if size > 1 << 32:
        raise NotImplementedError(f"more than 2**32 random numbers at once: shape {shape}; split the key and draw them in parts")
    if not shape:
        return np.uint32(0), np.uint32(0)
    low = ops.iota(U32, size)
    return np.uint32(0), low if len(shape) == 1 else ops.reshape(low, shape)


def _encipher(key: Words, n: int) -> Any:
    """The older layout: the counters 0..n-1, padded to an even number, enciphered as first half against second half."""
    padded = n + n % 2
    counts = ops.iota(U32, padded)
    if n % 2:
        last = ops.eq(counts, np.uint32(n))
        counts = ops.select(last, np.uint32(0), counts)
    halves = [ops.slice(counts, (i * padded // 2,), ((i + 1) * padded // 2,)) for i in range(2)]
    out = ops.concatenate(list(ops.threefry2x32(*key, *halves)), 0)
    return ops.slice(out, (0,), (n,)) if n % 2 else out


LARGE = 1 << 14
"""From so many numbers on a draw outside of jit is compiled: NumPy takes a hundred passes over memory for what is one loop."""


def compiled_if_large(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate `draw(words, *static)`, one of whose static arguments is a shape."""

    @functools.lru_cache(maxsize=256)
    def compiled(static: tuple[Any, ...]) -> Callable[..., Any]:
        return jit(lambda k0, k1: draw(Words(k0, k1), *static))

    @functools.wraps(draw)
    def function(key: Words, *static: Any) -> Any:
        if isinstance(key.k0, np.uint32) and is_eager() and not config.disable_jit:
            if any(math.prod(s) >= LARGE for s in static if isinstance(s, tuple)):
                return compiled(static)(*key)
        return draw(key, *static)

    return function


@compiled_if_large
def random_bits(key: Words, width: int, shape: tuple[int, ...]) -> Any:
    """Unsigned integers of `width` (8, 16, 32, 64) random bits."""
    dtype = np.dtype(f"u{width // 8}")
    if not config.threefry_partitionable:
        return _bits_in_halves(key, width, shape, dtype)
    high, low = _counters(shape)
    y0, y1 = ops.threefry2x32(*key, high, low)
    if width == 64:
        return ops.bitwise_or(
            ops.shift_left(ops.convert_element_type(y0, dtype), dtype.type(32)), ops.convert_element_type(y1, dtype)
        )
    bits = ops.bitwise_xor(y0, y1)
    return bits if width == 32 else ops.convert_element_type(bits, dtype)


def _bits_in_halves(key: Words, width: int, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    size = math.prod(shape)
    count = -(-width * size // 32)
    bits = _encipher(key, count)
    if width == 64:
        high, low = [
            ops.convert_element_type(ops.slice(bits, (i * count // 2,), ((i + 1) * count // 2,)), dtype) for i in range(2)
        ]
        bits = ops.bitwise_or(ops.shift_left(high, dtype.type(32)), low)
    elif width < 32:
        per_word = 32 // width
        spread = ops.broadcast_in_dim(bits, (count, per_word), (0,))
        shifts = ops.mul(ops.broadcasted_iota(U32, (count, per_word), 1), np.uint32(width))
        parts = ops.bitwise_and(ops.shift_right_logical(spread, shifts), np.uint32((1 << width) - 1))
        bits = ops.slice(ops.reshape(ops.convert_element_type(parts, dtype), (count * per_word,)), (0,), (size,))
    return ops.reshape(bits, shape)


def as_shape(name: str, shape: Any) -> tuple[int, ...]:
    """A shape argument of a sampler."""
    if not isinstance(shape, Sequence):
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    try:
        dims = tuple([operator.index(d) for d in shape])
    except TypeError:
        raise TypeError(
            f"{name}: the shape must be known while tracing, got {shape!r:.200}. If it depends on an argument of a jitted function, name "
            "that argument in static_argnums or static_argnames."
        ) from None
    if any(d < 0 for d in dims):
        raise ValueError(f"{name}: the shape {dims} has a negative dimension")
    return dims
