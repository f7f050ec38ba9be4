"""Every cell under every strategy compiles for two TPUs and two GPUs, forward and backward, under every option."""

import itertools

import jax
import jax.numpy as jnp
import pytest

import flaxrnn
from benchmarks import compilers
from tests.every import ALL

B, T, I = 8, 6, 3
MARKS = jax.ShapeDtypeStruct((B, T), bool)
LENGTHS = jax.ShapeDtypeStruct((B,), jnp.int32)
OPTIONS = [
    {},
    {"lengths": LENGTHS, "reverse": True},
    {"mask": MARKS, "resets": MARKS},
    {"lengths": LENGTHS, "resets": MARKS, "reverse": True, "dtype": jnp.bfloat16},
]
"""Each cell meets all of them, on TPUs and on GPUs, and so does each strategy; all triples would take too long."""


def cases():
    """For each cell and strategy one TPU and one GPU, in turn, and on each another option."""
    strategies = [name for name in flaxrnn.STRATEGIES if name != "native"]  # for CPUs
    for (number, name), (other, strategy) in itertools.product(enumerate(ALL), enumerate(strategies)):
        turn = number + other
        yield name, strategy, compilers.TPUS[turn % 2], OPTIONS[turn % 4]
        if strategy != "pallas":
            yield name, strategy, list(compilers.GPUS)[turn % 2], OPTIONS[(turn + 2) % 4]


def named(case):
    name, strategy, target, options = case
    return "-".join([name, strategy, target, *options])


@pytest.mark.parametrize("case", list(cases()), ids=named)
def test_compiles(case):
    name, strategy, target, options = case
    cell, options = ALL[name], dict(options)
    dtype, reverse = options.pop("dtype", jnp.float32), options.pop("reverse", False)
    params = jax.eval_shape(lambda key: cell.init(key, I, dtype), jax.random.key(0))

    def loss(params, inputs, marks):
        state, outputs = flaxrnn.scan(cell, params, inputs, reverse=reverse, strategy=strategy, **marks)
        return jnp.sum(outputs.astype(jnp.float32)) + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(state))

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    text = compilers.compile_for(target, gradient, params, jax.ShapeDtypeStruct((B, T, I), dtype), options).as_text()
    assert text.count('custom_call_target="tpu_custom_call"') == (2 if strategy == "pallas" else 0)
