"""Every cell under every strategy compiles for two TPUs and two GPUs, forward and backward, under every option."""

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
"""Each cell meets each of them under each strategy, on one of the four targets or the other."""


def cases():
    for number, name in enumerate(ALL):
        for other, strategy in enumerate(flaxrnn.STRATEGIES):
            for target in compilers.TARGETS:
                turn = number + other + compilers.TARGETS.index(target)
                if strategy == "pallas":  # on two targets: two options at once
                    if target in compilers.TPUS:
                        yield name, strategy, target, OPTIONS[turn % 2 * 3]
                elif strategy != "native":  # for CPUs
                    yield name, strategy, target, OPTIONS[turn % 4]


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
