"""The names of the package itself, and what importing it costs."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
from process_harness import python

import tracegrad
import tracegrad.numpy as jnp
from tracegrad.version import __version_info__

FUNCTIONS = """
    block_until_ready check_tracer_leaks checking_leaks checkpoint clear_caches closure_convert custom_gradient debug_infs debug_nans
    default_backend default_device default_matmul_precision device_count device_get device_put devices disable_jit effects_barrier
    enable_x64 ensure_compile_time_eval eval_shape grad hessian io_callback jacfwd jacobian jacrev jit jvp linear_transpose linearize
    live_arrays local_device_count local_devices log_compiles make_ir make_jaxpr make_mesh named_call named_scope numpy_dtype_promotion
    numpy_rank_promotion pmap print_environment_info process_count process_index pure_callback remat set_mesh typeof value_and_grad vjp vmap
""".split()
CLASSES = "Array Device NamedSharding P PartitionSpec Shard ShapeDtypeStruct custom_jvp custom_vjp".split()
MODULES = """
    ad_checkpoint core custom_derivatives debug dtypes errors flatten_util lax monitoring nn numpy ops profiler random scipy sharding stages test_util tree
    tree_util typing
""".split()


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES + MODULES)
def test_every_name_of_the_package_is_there_and_documented(name: str) -> None:
    value = getattr(tracegrad, name)
    if name in CLASSES:
        assert isinstance(value, type)
    elif name in MODULES:
        assert isinstance(value, types.ModuleType)
    else:
        assert callable(value) and value.__doc__, f"{name} has no text"
    assert name in dir(tracegrad)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="tracegrad.*nothing"):
        _ = tracegrad.nothing


def test_the_version_is_the_projects() -> None:
    project = (Path(__file__).resolve().parent.parent / "pyproject.toml").read_text()
    assert f'version = "{tracegrad.__version__}"' in project
    assert ".".join(map(str, __version_info__)) == tracegrad.__version__


def test_importing_loads_nothing_that_takes_long() -> None:
    code = "import sys, tracegrad; print([m for m in sys.modules if m.split('.')[0] in ('scipy', 'jax', 'matplotlib')])"
    assert python(code) == "[]\n"


def test_placing_on_the_one_device_changes_nothing() -> None:
    x = {"a": np.arange(3.0), "b": [2, jnp.float32(1)], "n": None}
    put = tracegrad.device_put(x, tracegrad.devices()[0])
    assert isinstance(put["a"], tracegrad.Array) and put["a"].dtype == np.float32 and put["b"][0].aval.weak and put["n"] is None
    x["a"][0] = 7
    assert float(put["a"][0]) == 0
    got = tracegrad.device_get(put)
    assert type(got["a"]) is np.ndarray and not got["a"].flags.writeable
    assert tracegrad.block_until_ready(put) is put

    class Waits:
        def __init__(self) -> None:
            self.waited = 0

        def block_until_ready(self) -> None:
            self.waited += 1

    waits = Waits()
    tree = {"a": [put, (waits, None)], "b": tracegrad.tree_util.Partial(abs, waits), "c": "no array"}
    assert tracegrad.block_until_ready(tree) is tree and waits.waited == 2
    assert any(y is put["a"] for y in tracegrad.live_arrays())
    with pytest.raises(TypeError, match="'text'"):
        tracegrad.device_put("text")
    with pytest.raises(ValueError, match="not a device"):
        tracegrad.device_put(x, "gpu:3")
    with pytest.raises(RuntimeError, match="Unknown backend"):
        tracegrad.devices("tpu")
    assert tracegrad.device_count() == tracegrad.local_device_count() == len(tracegrad.local_devices()) == 1
    assert tracegrad.default_backend() == "cpu" and tracegrad.process_index() == 0


def test_meshes_of_one_device() -> None:
    mesh = tracegrad.make_mesh((1, 1), ("x", "y"))
    sharding = tracegrad.NamedSharding(mesh, tracegrad.P("x", None))
    with tracegrad.set_mesh(mesh):
        assert tracegrad.device_put(jnp.ones(3), sharding).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="devices"):
        tracegrad.make_mesh((2,), ("x",))
    with pytest.raises(ValueError, match="'z'"):
        tracegrad.NamedSharding(mesh, tracegrad.P("z"))


def test_context_managers() -> None:
    with tracegrad.enable_x64():
        assert jnp.ones(1).dtype == np.float64
        with tracegrad.enable_x64(False):
            assert jnp.ones(1).dtype == np.float32
    assert jnp.ones(1).dtype == np.float32
    with tracegrad.numpy_rank_promotion("raise"), pytest.raises(ValueError):
        jnp.ones((2, 2)) + jnp.ones(2)
    with tracegrad.numpy_dtype_promotion("strict"), pytest.raises(tracegrad.dtypes.TypePromotionError):
        jnp.ones(2, jnp.float32) + jnp.ones(2, jnp.int32)
    with tracegrad.disable_jit():
        assert tracegrad.jit(lambda x: 1 if x > 0 else 2)(1.0) == 1
    with tracegrad.default_device(tracegrad.devices()[0]), tracegrad.default_matmul_precision("float32"):
        jnp.ones((2, 2)) @ jnp.ones((2, 2))
    with pytest.raises(RuntimeError, match="outlived"), tracegrad.checking_leaks():
        kept = []
        tracegrad.jit(lambda x: kept.append(x))(1.0)

    @tracegrad.jit
    def f(x):
        with tracegrad.ensure_compile_time_eval():
            n = int(jnp.sum(jnp.arange(4)))
        with tracegrad.named_scope("part"):
            return tracegrad.named_call(jnp.sin, name="sine")(x) * n

    np.testing.assert_allclose(float(f(1.0)), 6 * np.sin(1.0), rtol=1e-6)


def test_the_environment() -> None:
    text = tracegrad.print_environment_info(return_string=True)
    assert "numpy:" in text and "LLVM" in text and tracegrad.__version__ in text


def test_jitted_functions_are_wrapped_functions() -> None:
    assert isinstance(tracegrad.jit(lambda x: x), tracegrad.stages.Wrapped)


def test_clearing_caches_traces_again() -> None:
    traced = []

    @tracegrad.jit
    def f(x):
        traced.append(1)
        return x + 1

    f(1.0), f(1.0)
    tracegrad.clear_caches()
    assert float(f(1.0)) == 2 and len(traced) == 2


def test_modules_of_scipy_are_loaded_when_they_are_named() -> None:
    code = "import tracegrad as tg; print(tg.scipy.linalg.cho_solve.__name__, tg.scipy.special.gammaln.__name__, 'linalg' in dir(tg.scipy))"
    assert python(code).split() == ["cho_solve", "gammaln", "True"]


def test_a_mapped_axis_on_one_device() -> None:
    f = tracegrad.pmap(lambda x, y: (x * y, tracegrad.lax.psum(x, "i")), "i", in_axes=(0, None))
    product, total = f(np.arange(3.0).reshape(1, 3), 2.0)
    assert product.tolist() == [[0, 2, 4]] and total.tolist() == [[0, 1, 2]]
    assert tracegrad.pmap(lambda n, x: x * n, static_broadcasted_argnums=0)(3, np.ones((1, 2))).tolist() == [[3, 3]]
    assert tracegrad.grad(lambda x: tracegrad.pmap(jnp.square)(x).sum())(np.ones((1, 2))).tolist() == [[2, 2]]
    with pytest.raises(ValueError, match=r"size 2.*vmap"):
        f(np.ones((2, 3)), 2.0)


def test_what_is_said_to_profilers_and_other_processes() -> None:
    from tracegrad.experimental import mesh_utils, multihost_utils

    @tracegrad.profiler.annotate_function
    def f(x):
        with tracegrad.profiler.StepTraceAnnotation("step", step_num=1):
            return x + 1

    assert tracegrad.jit(f)(1.0) == 2
    with pytest.raises(NotImplementedError, match="explain"):
        tracegrad.profiler.start_trace("folder")
    multihost_utils.sync_global_devices("here")
    assert multihost_utils.broadcast_one_to_all({"a": jnp.ones(2)})["a"].tolist() == [1, 1]
    mesh = tracegrad.sharding.Mesh(mesh_utils.create_device_mesh((1, 1)), ("x", "y"))
    assert tracegrad.sharding.reshard(jnp.ones(2), tracegrad.NamedSharding(mesh, tracegrad.P("x"))).tolist() == [1, 1]
    with pytest.raises(ValueError, match="takes 4 devices"):
        mesh_utils.create_device_mesh((2, 2))


def test_events_reach_their_listeners() -> None:
    heard = []
    tracegrad.monitoring.register_event_listener(lambda event, **about: heard.append((event, about)))
    tracegrad.monitoring.register_event_duration_secs_listener(lambda event, seconds: heard.append((event, seconds)))
    tracegrad.monitoring.register_scalar_listener(lambda event, value: heard.append((event, value)))
    try:
        tracegrad.monitoring.record_event("/begun", step=1)
        tracegrad.monitoring.record_event_duration_secs("/took", 0.5)
        tracegrad.monitoring.record_scalar("/size", 3)
    finally:
        tracegrad.monitoring.clear_event_listeners()
    tracegrad.monitoring.record_event("/over")
    assert heard == [("/begun", {"step": 1}), ("/took", 0.5), ("/size", 3)]
