"""The real Haiku."""

import hypothesis
import jax
import pytest

from flaxrnn import RNN, Stack, interop
from flaxrnn.cells import GRU, LSTM, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.places import places
from tests.compare import assert_close, normal, random_params
from tests.interop import harness
from tests.peers.peer import peer

hk = peer("haiku")

CELLS = {
    "lstm": (lambda hidden: LSTM(hidden), ("bias",)),
    "gru": (lambda hidden: GRU(hidden, reset_after=False), ()),
    "vanilla_rnn": (lambda hidden: Elman(hidden, activation=relu), ()),
}


def run(layer, weights, inputs, lengths):
    found = places(layer)
    kinds = {LSTM: hk.LSTM, GRU: hk.GRU, Elman: hk.VanillaRNN}
    directions = 2 if found[0].direction else 1

    def unroll(values):
        states = []
        for place in found[::directions]:
            outputs = []
            for reverse in (False, True)[:directions]:
                core = kinds[type(place.cell)](place.cell.hidden_size)
                start = jax.tree.map(lambda s: s.astype(inputs.dtype), core.initial_state(len(inputs)))
                read = values[:, ::-1] if reverse else values
                made, state = hk.dynamic_unroll(core, read, start, time_major=False)
                outputs.append(made[:, ::-1] if reverse else made)
                states.append([state.hidden, state.cell] if isinstance(state, hk.LSTMState) else [state])
            values = jax.numpy.concatenate(outputs, axis=-1)
        return values, states

    return hk.without_apply_rng(hk.transform(unroll)).apply(weights, jax.numpy.asarray(inputs))


@pytest.mark.parametrize("name", CELLS)
@harness.SETTINGS
@hypothesis.given(harness.sizes(lengths=(False,)))
def test_agrees(name, example):
    make, rounded = CELLS[name]
    harness.check(interop.haiku, make(example.hidden), example, run, rounded)


def test_a_model_with_other_modules():
    def network(inputs):
        core = hk.DeepRNN([hk.LSTM(4), hk.GRU(5), hk.VanillaRNN(3)])
        outputs, _ = hk.dynamic_unroll(core, inputs, core.initial_state(2), time_major=False)
        return hk.Linear(2, name="head")(outputs), outputs

    model = hk.without_apply_rng(hk.transform(network))
    inputs = normal(0, 2, 5, 3)
    weights = model.init(jax.random.key(0), inputs)
    with pytest.raises(ValueError, match="head/w, head/b: no recurrent cell of Haiku has these alone"):
        interop.haiku.layer_for(weights)
    del weights["head"]
    layer = Stack([RNN(LSTM(4)), RNN(GRU(5, reset_after=False)), RNN(Elman(3, activation=relu))])
    in_order = {name: weights[name] for name in ("lstm/linear", "gru", "vanilla_rnn/linear", "vanilla_rnn/linear_1")}
    assert interop.haiku.layer_for(in_order) == layer
    with pytest.raises(
        ValueError, match="the order of the layers is not to be seen from the names gru, lstm, vanilla_rnn"
    ):
        interop.haiku.layer_for(dict(sorted(in_order.items())))  # as a file has them
    params = interop.haiku.import_weights(layer, weights)
    weights["head"] = {"w": jax.numpy.zeros([3, 2]), "b": jax.numpy.zeros(2)}
    assert_close(layer.apply(params, inputs)[1], model.apply(weights, inputs)[1])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (GRU(4), "Haiku has no GRU with reset_after=True, only False: its reset gate acts before the matrix product"),
        (Elman(4), "Haiku has no Elman with activation=tanh, only relu: its VanillaRNN is a ReLU network"),
    ],
    ids=str,
)
def test_what_haiku_has_not(cell, message):
    with pytest.raises(ValueError, match=message):
        interop.haiku.export_weights(RNN(cell), random_params(cell, 3))
