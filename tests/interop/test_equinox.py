"""The real Equinox."""

import hypothesis
import jax
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.interop.places import places
from tests.compare import assert_close, normal, random_params
from tests.interop import harness
from tests.peers.peer import peer

eqx = peer("equinox")

CELLS = {"lstm": LSTM, "gru": GRU}


def sequence(cell, inputs, reverse=False):
    """An Equinox cell over `[batch, time, features]`."""

    def one(inputs):
        zeros = jax.numpy.zeros(cell.hidden_size, inputs.dtype)
        is_lstm = isinstance(cell, eqx.nn.LSTMCell)

        def step(state, now):
            state = cell(now, state)
            return state, state[0] if is_lstm else state

        return jax.lax.scan(step, (zeros, zeros) if is_lstm else zeros, inputs, reverse=reverse)

    state, outputs = jax.vmap(one)(inputs)
    return outputs, list(state) if isinstance(state, tuple) else [state]


def run(layer, weights, inputs, lengths):
    values, states = jax.numpy.asarray(inputs), []
    found = places(layer)
    directions = 2 if found[0].direction else 1
    for k in range(0, len(found), directions):
        outputs = []
        for place in found[k : k + directions]:
            kind = eqx.nn.LSTMCell if isinstance(place.cell, LSTM) else eqx.nn.GRUCell
            cell = kind(values.shape[-1], place.cell.hidden_size, use_bias=place.cell.use_bias, key=jax.random.key(0))
            prefix = "/".join(
                [str(place.number)] * (place.number is not None) + [place.direction] * bool(place.direction)
            )
            arrays = {name.split("/")[-1]: a for name, a in weights.items() if name.rpartition("/")[0] == prefix}
            cell = eqx.tree_at(
                lambda c, names=tuple(arrays): [getattr(c, n) for n in names], cell, list(arrays.values())
            )
            made, state = sequence(cell, values, place.reverse)
            outputs.append(made)
            states.append(state)
        values = jax.numpy.concatenate(outputs, axis=-1)
    return values, states


@pytest.mark.parametrize("name", CELLS)
@harness.SETTINGS
@hypothesis.given(harness.sizes(lengths=(False,)))
def test_agrees(name, example):
    harness.check(interop.equinox, CELLS[name](example.hidden), example, run)


def test_cells_themselves():
    keys = jax.random.split(jax.random.key(0), 4)
    cells = [
        eqx.nn.LSTMCell(3, 4, key=keys[0], use_bias=False),
        {"forward": eqx.nn.GRUCell(4, 5, key=keys[1]), "backward": eqx.nn.GRUCell(4, 2, key=keys[2])},
    ]
    layer = interop.equinox.layer_for(cells)
    assert layer == Stack([RNN(LSTM(4, use_bias=False)), Bidirectional(GRU(5), GRU(2))])
    params = interop.equinox.import_weights(layer, cells)
    inputs = normal(0, 2, 5, 3)
    below, _ = sequence(cells[0], inputs)
    expected = [sequence(cells[1][name], below, name == "backward")[0] for name in ("forward", "backward")]
    assert_close(layer.apply(params, inputs)[1], jax.numpy.concatenate(expected, axis=-1))


def test_something_else():
    with pytest.raises(TypeError, match=r"pass an eqx.nn.LSTMCell or GRUCell, a list of them, or arrays"):
        interop.equinox.layer_for(eqx.nn.Linear(3, 4, key=jax.random.key(0)))


@pytest.mark.parametrize("cell", [Elman(4), GRU(4, reset_after=False), LSTM(4, projection_size=2)], ids=str)
def test_what_equinox_has_not(cell):
    with pytest.raises(ValueError, match="Equinox has no "):
        interop.equinox.export_weights(RNN(cell), random_params(cell, 3))
