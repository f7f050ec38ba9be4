"""Training steps, of programs and of a notebook, compile for one TPU or GPU and for meshes of four and eight TPUs."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import compilers
from tests.accelerators.programs import collectives
from train import charlm, devices, loop, memory, mnist

BATCH, SIZES = 64, {"hidden_size": 32}


def shape(dtype, *sizes):
    return jax.ShapeDtypeStruct((BATCH, *sizes), dtype)


def mnist_step(**options):
    batch = SimpleNamespace(images=shape(jnp.float32, 28, 28), labels=shape(jnp.int32))
    return mnist.Config(cell="gru", batch_size=BATCH, **(SIZES | options)).make_task(10), batch


def memory_step(**options):
    batch = SimpleNamespace(inputs=shape(jnp.float32, 20, 2), targets=shape(jnp.float32))
    return memory.Config(cell="lstm", batch_size=BATCH, length=20, **(SIZES | options)).make_task(1), batch


def charlm_step(**options):
    ids, marks = shape(jnp.int32, 20), shape(bool, 20)
    batch = SimpleNamespace(inputs=ids, targets=ids, resets=marks)
    return charlm.Config(cell="lstm", batch_size=BATCH, unroll=20, **(SIZES | options)).make_task(60), batch


STEPS = {"mnist": mnist_step, "memory": memory_step, "charlm": charlm_step}


def compile_step(target, text, make, **options):
    """The step that `train.loop` makes of a program, for the mesh that `--mesh` describes."""
    task, batch = make(**options)
    optimizer, _ = loop.make_optimizer(1e-2, 100)
    on = list(compilers.devices(target))[: 1 if text is None else None]
    shardings = []

    def begin():
        state, how = loop.begin(task, optimizer, 0, mesh)
        shardings.append(how)
        return state

    with mock.patch.object(jax, "devices", return_value=on):
        mesh = devices.make_mesh(text, BATCH)
    like = jax.eval_shape(begin)
    state = jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), like, shardings[0])
    rows = devices.batch_sharding(mesh)
    fields = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=rows) for name, leaf in vars(batch).items()}
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    step = loop.make_step(FromFields(task), optimizer, shardings[0])
    return compilers.compile_jitted(target, step, state, fields, key, 1), state, fields


class FromFields:
    """A task whose batches are dicts, so that this file need not know which class a program's batches have."""

    def __init__(self, task):
        self.task = task

    def loss(self, params, carry, batch, key):
        return self.task.loss(params, carry, SimpleNamespace(**batch), key)


def bytes_of(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("target", ["v6e", "h100"])
@pytest.mark.parametrize("name", STEPS)
def test_on_one_chip(name, target):
    compiled, *_ = compile_step(target, None, STEPS[name], precision="bfloat16", dropout=0.1)
    assert collectives(compiled) == ([], [])


@pytest.mark.parametrize(("target", "mesh"), [("v5e:2x2", "data:4"), ("v5e:2x4", "data:8")])
@pytest.mark.parametrize("name", STEPS)
def test_on_a_mesh(name, target, mesh):
    """One reduction, of gradients and metrics together, after the loops; each chip has its part of the batch."""
    compiled, state, batch = compile_step(target, mesh, STEPS[name])
    outside, inside = collectives(compiled)
    assert outside == ["all-reduce"]
    assert inside == []
    parts = int(mesh.partition(":")[2])
    whole = bytes_of(state._replace(carry=())) + bytes_of((state.carry, batch)) / parts
    assert whole <= compiled.memory_analysis().argument_size_in_bytes < 1.5 * whole + 2**20


@pytest.mark.parametrize("name", ["mnist", "memory"])
def test_on_a_mesh_that_divides_the_network_too(name):
    """A network so large that its parts are more than what tiles of 128 columns fill up."""
    compiled, *_ = compile_step("v5e:2x4", "data:4,model:2", STEPS[name], hidden_size=256)
    outside, _ = collectives(compiled)
    assert "all-reduce" in outside
    alone, *_ = compile_step("v5e:2x4", "data:8", STEPS[name], hidden_size=256)
    assert compiled.memory_analysis().argument_size_in_bytes < alone.memory_analysis().argument_size_in_bytes


@pytest.mark.parametrize(("target", "parts"), [("v5e:2x2", 4), ("v5e:2x4", 8)])
def test_the_notebook(target, parts):
    """The step of notebooks/tpu_data_parallel, as it stands there."""
    script = (Path(__file__).parents[2] / "notebooks" / "tpu_data_parallel.py").read_text()
    imports = re.findall(r"^(?:import|from) .*", script, flags=re.MULTILINE)
    code = re.search(r"^layer = flaxrnn.*?^    return \(optax.*?$", script, flags=re.MULTILINE | re.DOTALL)[0]
    names = {"hidden_size": 128}
    wanted = [line for line in imports if re.search(r"jax|flaxrnn|optax|functools", line) and "train" not in line]
    exec("\n".join([*wanted, code]), names)  # it is our own
    mesh = Mesh(np.array(compilers.devices(target)), ("data",))

    def lay(tree, spec):
        at = NamedSharding(mesh, spec)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree)

    state = lay(jax.eval_shape(names["begin"], jax.random.key(0)), PartitionSpec())
    batch = lay((shape(jnp.float32, 28, 28), shape(jnp.int32)), PartitionSpec("data"))
    for dtype in ("float32", "bfloat16"):
        with compilers.tracing_for(target):
            compiled = names["step"].lower(state, batch, dtype).compile()
        outside, inside = collectives(compiled)
        assert outside == ["all-reduce"] * (2 if dtype == "bfloat16" else 1)  # there the loss is in another dtype
        assert inside == []
    assert len(mesh.devices) == parts


def test_pallas_on_a_batch_that_is_divided():
    """Nothing is gathered: each chip's kernels get its eight sequences."""
    import flaxrnn

    cell, inputs = flaxrnn.cells.LSTM(128), shape(jnp.float32, 32, 16)
    strategy = flaxrnn.strategies.Pallas(mesh_axes=("data",))
    mesh = Mesh(np.array(compilers.devices("v5e:2x4")), ("data",))
    params = jax.eval_shape(lambda key: cell.init(key, 16), jax.random.key(0))

    def loss(params, inputs):
        return jnp.sum(jnp.sin(flaxrnn.scan(cell, params, inputs, strategy=strategy)[1]))

    copied, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("data")))
    jitted = jax.jit(jax.value_and_grad(loss), in_shardings=(copied, rows), out_shardings=copied)
    with jax.set_mesh(mesh):
        compiled = compilers.compile_jitted("v5e:2x4", jitted, params, inputs)
    assert collectives(compiled) == (["all-reduce"], [])
    kernels = [line for line in compiled.as_text().splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    assert len(kernels) == 2
    assert all("f32[32,8,128]" in line for line in kernels)
