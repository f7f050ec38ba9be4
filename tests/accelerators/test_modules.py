"""Layers, and linen's and nnx's modules, compile for TPU and GPU."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import flaxrnn.linen
import flaxrnn.nnx
from benchmarks import compilers
from flaxrnn.cells import GRU, LSTM

B, T, I = 8, 6, 3
INPUTS, LENGTHS = jax.ShapeDtypeStruct((B, T, I), jnp.float32), jax.ShapeDtypeStruct((B,), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))
LAYER = flaxrnn.Stack(
    [flaxrnn.Bidirectional(LSTM(8, layer_norm=True), GRU(8)), flaxrnn.RNN(GRU(16, hidden_dropout=0.1))],
    dropout=0.1,
    residual=True,
)


def compiled(target, apply, params):
    def loss(params, inputs, lengths, key):
        return jnp.sum(jnp.sin(apply(params, inputs, lengths, key)))

    return compilers.compile_for(target, jax.value_and_grad(loss), params, INPUTS, LENGTHS, KEY)


@pytest.mark.parametrize("target", compilers.TARGETS)
def test_layers(target):
    def apply(params, inputs, lengths, key):
        return LAYER.apply(params, inputs, lengths=lengths, key=key)[1]

    params = jax.eval_shape(lambda key: LAYER.init(key, I), KEY)
    assert compilers.peak_bytes(compiled(target, apply, params)) > 0


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_linen(target):
    module = flaxrnn.linen.Stack([LSTM(8), GRU(8)], dropout=0.1)

    def apply(variables, inputs, lengths, key):
        return module.apply(variables, inputs, lengths=lengths, deterministic=False, rngs={"dropout": key})[1]

    def init(key, inputs):
        return module.init(key, inputs, deterministic=True)

    assert compilers.peak_bytes(compiled(target, apply, jax.eval_shape(init, KEY, INPUTS))) > 0


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_nnx(target):
    graph, state = nnx.split(flaxrnn.nnx.RNN(LSTM(8, peephole=True), I, rngs=nnx.Rngs(0)))

    def apply(state, inputs, lengths, key):
        del key
        return nnx.merge(graph, state)(inputs, lengths=lengths)[1]

    assert compilers.peak_bytes(compiled(target, apply, state)) > 0
