"""Programs lower for GPUs and TPUs, gradients included; a CPU can check no more."""

import jax
import jax.numpy as jnp
import pytest

import flaxrnn
from tests.compare import normal, random_params
from tests.every import CELLS
from tests.tiers import tiers


@pytest.mark.parametrize("strategy", sorted(flaxrnn.STRATEGIES.keys() - {"pallas"}))
@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_lowers_for_gpu_and_tpu(name, strategy):
    cell = CELLS[name]
    layer = flaxrnn.Bidirectional(cell, cell)

    @jax.jit
    def gradient(params, inputs, lengths):
        return jax.grad(lambda params: jnp.sum(layer.apply(params, inputs, lengths=lengths, strategy=strategy)[1]))(
            params
        )

    arguments = random_params(layer, 3), jnp.asarray(normal(0, 2, 6, 3)), jnp.array([4, 6])
    exported = jax.export.export(gradient, platforms=["cuda", "tpu"])(*arguments)
    assert set(exported.platforms) == {"cuda", "tpu"}
    assert "stablehlo.while" in exported.mlir_module()
