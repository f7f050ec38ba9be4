"""Cells that users may write, and that none of ours is like: every strategy does with them what `plain` does."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import Cell, Elman, GatedCell, HiddenState
from tests.compare import assert_close, normal
from tests.tiers import tiers

B, T, I, H = 2, 11, 3, 4
OTHERS = sorted(flaxrnn.STRATEGIES.keys() - {"plain", "pallas"})  # that one: test_pallas.py


@dataclasses.dataclass(frozen=True)
class Direct(Cell):
    """A direct subclass of `Cell`, whose `recur` takes a product and whose `project` does not."""

    size: int = H

    @property
    def output_size(self):
        return self.size

    def init(self, key, input_size, dtype=jnp.float32):
        keys = jax.random.split(key)
        shapes = {"kernel": (input_size, self.size), "recurrent_kernel": (self.size, self.size)}
        drawn = zip(shapes.items(), keys, strict=True)
        return {name: 0.5 * jax.random.normal(key, shape, dtype) for (name, shape), key in drawn}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return HiddenState(jnp.zeros((*batch_shape, self.size), dtype))

    def recur(self, params, state, projected, product):
        new = jnp.tanh(product("kernel", projected) + product("recurrent_kernel", state.hidden))
        return HiddenState(new), new


class Sees(Elman):
    """It looks at the projection without a derivative, besides the sum."""

    sums_only = False

    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh((projected[0] + recurrent[0]) * (projected[0] > 0))
        return HiddenState(hidden), hidden


class OwnProject(Elman):
    """Its `project` makes its product itself."""

    def project(self, params, inputs, product):
        return (jnp.sin(inputs @ params["kernel"]),)


class Root(Direct):
    """Its derivative at zero is not finite."""

    def recur(self, params, state, projected, product):
        new = jnp.sqrt(jnp.exp(projected) @ jnp.exp(params["kernel"])) + 0.1 * product("recurrent_kernel", state.hidden)
        return HiddenState(new), new


class Counted(NamedTuple):
    hidden: jax.Array
    count: jax.Array


class Counts(Direct):
    """Its state has an integer in it."""

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return Counted(jnp.zeros((*batch_shape, self.size), dtype), jnp.zeros((*batch_shape, 1), jnp.int32))

    def recur(self, params, state, projected, product):
        new, _ = super().recur(params, HiddenState(state.hidden), projected, product)
        hidden = new.hidden / (1 + state.count)
        return Counted(hidden, state.count + 1), hidden


class Stamped(GatedCell):
    """Its projection has a part without features, as a time stamp has none."""

    gates = ("candidate",)

    def project(self, params, inputs, product):
        return super().project(params, inputs, product), inputs[..., 0]

    def recur(self, params, state, projected, product):
        (block,), stamp = projected
        return super().recur(params, state, (block + stamp[..., None],), product)

    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh(projected[0] + recurrent[0])
        return HiddenState(hidden), hidden


class Mirrored(GatedCell):
    """Its gate looks for an axis of the batch, which a sequence without batch axes has not."""

    gates = ("candidate",)

    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh(jnp.flip(projected[0], axis=1) + recurrent[0])
        return HiddenState(hidden), hidden


CELLS = [Direct(), Sees(H), OwnProject(H), Root(), Counts(), Stamped(H)]
REFUSED = {
    ("fused", Counts): "not floating-point numbers",
    **{("native", kind): f"{kind.__name__} is not a GatedCell" for kind in (Direct, Root, Counts)},
    **{("native", kind): f"{kind.__name__} overrides project" for kind in (OwnProject, Stamped)},
}
PORTABLE = sorted(set(OTHERS) - {"native"})


def value_and_gradients(cell, strategy, batch_shape=(B,), inputs_dtype=jnp.float32, **options):
    params = cell.init(jax.random.key(0), I)
    inputs = jnp.asarray(normal(0, *batch_shape, T, I), inputs_dtype)
    weights = normal(1, *batch_shape, T, H)

    def loss(params, inputs):
        inputs = jax.nn.relu(inputs * 2) + 0.3 * inputs
        return jnp.sum(flaxrnn.scan(cell, params, inputs, strategy=strategy, **options)[1] * weights)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params, inputs)


def test_a_cell_that_needs_a_batch():
    why = "its step cannot be traced for one sequence"
    assert why in flaxrnn.explain(Mirrored(H), jnp.zeros([B, T, I]))
    with pytest.raises(ValueError, match=why):
        value_and_gradients(Mirrored(H), "native")
    assert_close(value_and_gradients(Mirrored(H), "auto"), value_and_gradients(Mirrored(H), "plain"))


@pytest.mark.parametrize("strategy", tiers(OTHERS, {"fused"}))
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: type(cell).__name__)
def test_agrees_with_plain(cell, strategy):
    for options in ({}, {"batch_shape": ()}, {"batch_shape": (2, 3), "reverse": True}):
        if reason := REFUSED.get((strategy, type(cell))):
            with pytest.raises(ValueError, match=f"cannot run {type(cell).__name__}.*{reason}; pass"):
                value_and_gradients(cell, strategy, **options)
            continue
        found, expected = (value_and_gradients(cell, name, **options) for name in (strategy, "plain"))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(found))
        assert_close(found, expected)


@pytest.mark.parametrize("strategy", PORTABLE)
def test_narrow_inputs_and_wide_parameters(strategy):
    found, expected = (value_and_gradients(Elman(H), name, inputs_dtype=jnp.bfloat16) for name in (strategy, "plain"))
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, expected)
    assert_close(*(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree) for tree in (found, expected)), 0.02)


@pytest.mark.parametrize("strategy", PORTABLE)
def test_second_derivative_of_a_product_of_the_input(strategy):
    cell = Direct()
    params, inputs = cell.init(jax.random.key(0), I), jnp.asarray(normal(0, B, T, I))

    def loss(kernel, strategy):
        return jnp.sum(flaxrnn.scan(cell, params | {"kernel": kernel}, inputs, strategy=strategy)[1] ** 2)

    hessian = jax.hessian(loss)
    assert_close(hessian(params["kernel"], strategy), hessian(params["kernel"], "plain"), rtol=1e-4)


@pytest.mark.parametrize("strategy", ["plain", *OTHERS])
def test_a_kernel_that_is_none_is_refused(strategy):
    class Misspelt(Direct):
        def recur(self, params, state, projected, product):
            new = product("recurent_kernel", state.hidden)
            return HiddenState(new), new

    class Vector(Direct):
        def init(self, key, input_size, dtype=jnp.float32):
            return {"scale": jnp.ones((self.size,), dtype)}

        def recur(self, params, state, projected, product):
            return state, product("scale", state.hidden)[..., None] + state.hidden

    with pytest.raises(ValueError, match="Misspelt asks for a product with 'recurent_kernel', but its parameters are"):
        value_and_gradients(Misspelt(), strategy)
    with pytest.raises(ValueError, match=r"Vector asks for a product with 'scale', \[4\]: a kernel is a matrix"):
        value_and_gradients(Vector(), strategy)
