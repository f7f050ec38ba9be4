"""How parameters begin: their shapes, their statistics, and that every initializer is an argument."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxrnn import cells
from flaxrnn.cells import GRU, LSTM, MGU, Elman
from tests.compare import assert_close
from tests.every import CELLS

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(name, dtype):
    cell = CELLS[name]
    params = cell.init(KEY, 3, dtype)
    width = 5 * len(cell.gates)
    expected = {"kernel": (3, width), "recurrent_kernel": (cell.output_size, width), "bias": (width,)}
    if getattr(cell, "peephole", False):
        expected["peephole"] = (len(cell.gates) - 1, 5)
    if getattr(cell, "projection_size", None):
        expected["projection_kernel"] = (5, 3)
    if getattr(cell, "reset_after", False):
        expected["recurrent_bias"] = (5,)
    assert {key: value.shape for key, value in params.items()} == expected
    assert {value.dtype for value in params.values()} == {jnp.dtype(dtype)}


def test_kernel_is_lecun_normal():
    kernel = GRU(400).init(KEY, 100)["kernel"]
    assert np.std(kernel) == pytest.approx(100**-0.5, rel=0.02)
    assert abs(np.mean(kernel)) < 1e-3


def test_recurrent_kernel_is_orthogonal_for_each_gate():
    blocks = jnp.split(LSTM(16).init(KEY, 3)["recurrent_kernel"], 4, axis=1)
    for block in blocks:
        assert_close(block @ block.T, np.eye(16), rtol=1e-5)
    assert len({np.asarray(block).tobytes() for block in blocks}) == 4


@pytest.mark.parametrize(("coupled", "forget"), [(False, slice(4, 8)), (True, slice(0, 4))])
def test_only_the_forget_bias_is_not_zero(coupled, forget):
    bias = np.array(LSTM(4, forget_bias=1.5, coupled=coupled).init(KEY, 3)["bias"])
    assert np.all(bias[forget] == 1.5)
    bias[forget] = 0
    assert not bias.any()


def test_initializers_are_arguments():
    def constant(value):
        return lambda key, shape, dtype=jnp.float32: jnp.full(shape, value, dtype)

    cell = LSTM(
        4,
        peephole=True,
        projection_size=2,
        kernel_init=constant(1),
        recurrent_kernel_init=constant(2),
        bias_init=constant(3),
        peephole_init=constant(4),
        projection_kernel_init=constant(5),
    )
    params = cell.init(KEY, 3)
    names = ("kernel", "recurrent_kernel", "peephole", "projection_kernel")
    assert [set(np.unique(params[name])) for name in names] == [{1}, {2}, {4}, {5}]
    assert np.array_equal(params["bias"], np.repeat([3, 4, 3, 3], 4))


def test_cells_are_values():
    assert LSTM(4, peephole=True) == LSTM(4, peephole=True) != LSTM(4)
    assert hash(GRU(4)) == hash(GRU(4))
    assert repr(GRU(4, reset_after=False)) == "GRU(hidden_size=4, reset_after=False)"
    assert repr(LSTM(4, kernel_init=jax.nn.initializers.zeros)) == "LSTM(hidden_size=4)"


def test_make():
    assert cells.make("rnn", hidden_size=3) == cells.make("elman", hidden_size=3) == Elman(3)
    assert cells.make("lstm", hidden_size=3, coupled=True) == LSTM(3, coupled=True)
    assert cells.make("mgu", hidden_size=3) == MGU(3)
    with pytest.raises(
        ValueError, match=r"no cell 'lstn': pass one of conv_gru, conv_lstm, elman, gru, lstm, mgu, rnn"
    ):
        cells.make("lstn", hidden_size=3)
    with pytest.raises(ValueError, match=r"'gru' has no option 'peephole': it takes .*reset_after"):
        cells.make("gru", hidden_size=3, peephole=True)
