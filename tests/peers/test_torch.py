"""The real torch: LSTM, GRU and RNN, in layers, in both directions, over packed sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import GRU, LSTM, MGU, Elman, HiddenState, LSTMState
from tests.compare import assert_close, normal
from tests.peers.peer import peer
from tests.tiers import tiers

torch = peer("torch")

B, T, I, H, P = 4, 7, 5, 6, 3

CELLS = {
    "lstm": (LSTM(H), lambda **options: torch.nn.LSTM(I, H, **options)),
    "lstm_proj_size": (LSTM(H, projection_size=P), lambda **options: torch.nn.LSTM(I, H, proj_size=P, **options)),
    "gru": (GRU(H), lambda **options: torch.nn.GRU(I, H, **options)),
    "rnn_tanh": (Elman(H), lambda **options: torch.nn.RNN(I, H, **options)),
    "rnn_relu": (
        Elman(H, activation=jax.nn.relu),
        lambda **options: torch.nn.RNN(I, H, nonlinearity="relu", **options),
    ),
}


def layer_of(cell, num_layers, bidirectional):
    return flaxrnn.Stack(
        [flaxrnn.Bidirectional(cell, cell) if bidirectional else flaxrnn.RNN(cell) for _ in range(num_layers)]
    )


def cell_params(cell, weights, suffix):
    """flaxrnn's parameters of one layer and direction from torch's, differentiably."""
    bias_ih, bias_hh = weights[f"bias_ih_{suffix}"], weights[f"bias_hh_{suffix}"]
    params = {"kernel": weights[f"weight_ih_{suffix}"].T, "recurrent_kernel": weights[f"weight_hh_{suffix}"].T}
    if isinstance(cell, GRU):
        inside = jnp.arange(3 * H) >= 2 * H
        params |= {"bias": bias_ih + jnp.where(inside, 0, bias_hh), "recurrent_bias": bias_hh[2 * H :]}
    else:
        params["bias"] = bias_ih + bias_hh
    if f"weight_hr_{suffix}" in weights:
        params["projection_kernel"] = weights[f"weight_hr_{suffix}"].T
    return params


def layer_params(cell, weights, num_layers, bidirectional):
    params = {}
    for k in range(num_layers):
        forward = cell_params(cell, weights, f"l{k}")
        params[f"layer_{k}"] = (
            {"forward": forward, "backward": cell_params(cell, weights, f"l{k}_reverse")} if bidirectional else forward
        )
    return params


def states_from_torch(arrays, num_layers, bidirectional):
    """torch's `[layers * directions, batch, size]`, h alone or (h, c), as the state of a `Stack`."""
    make = LSTMState if len(arrays) == 2 else HiddenState
    flat = [make(*(array[k] for array in arrays)) for k in range(len(arrays[0]))]
    return tuple(zip(flat[::2], flat[1::2], strict=True)) if bidirectional else tuple(flat)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("packed", tiers([False, True], {True}), ids=["full", "packed"])
@pytest.mark.parametrize(
    ("num_layers", "bidirectional"), tiers([(1, False), (1, True), (3, False), (2, True)], {(2, True)})
)
@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_proj_size", "gru", "rnn_tanh"}))
def test_agrees(name, num_layers, bidirectional, packed):
    cell, make = CELLS[name]
    torch.manual_seed(3)
    module = make(num_layers=num_layers, bidirectional=bidirectional, batch_first=True)
    directions = 2 if bidirectional else 1
    sizes = [cell.output_size, H] if isinstance(cell, LSTM) else [H]
    inputs = normal(0, B, T, I)
    initial = [normal(k + 1, num_layers * directions, B, size) for k, size in enumerate(sizes)]
    cotangent = normal(9, B, T, directions * cell.output_size)
    state_cotangents = [normal(k + 10, *array.shape) for k, array in enumerate(initial)]
    lengths = np.array([4, 7, 1, 5]) if packed else None

    leaves = [torch.tensor(x, requires_grad=True) for x in (inputs, *initial)]
    x, state = leaves[0], leaves[1] if len(initial) == 1 else tuple(leaves[1:])
    if packed:
        x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    outputs, final = module(x, state)
    if packed:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True, total_length=T)
    finals = list(final) if isinstance(final, tuple) else [final]
    loss = (outputs * torch.tensor(cotangent)).sum()
    loss = loss + sum((f * torch.tensor(c)).sum() for f, c in zip(finals, state_cotangents, strict=True))
    loss.backward()

    layer = layer_of(cell, num_layers, bidirectional)
    wanted_cotangents = states_from_torch(state_cotangents, num_layers, bidirectional)

    def run(weights, inputs, initial):
        params = layer_params(cell, weights, num_layers, bidirectional)
        initial_state = states_from_torch(initial, num_layers, bidirectional)
        state, outputs = layer.apply(params, inputs, initial_state=initial_state, lengths=lengths)
        products = jax.tree.map(lambda s, c: jnp.sum(s * c), state, wanted_cotangents)
        return jnp.sum(outputs * cotangent) + sum(jax.tree.leaves(products)), (state, outputs)

    weights = {key: jnp.asarray(value.detach().numpy()) for key, value in module.named_parameters()}
    gradient = jax.grad(run, argnums=(0, 1, 2), has_aux=True)
    gradients, (state, ours) = gradient(weights, jnp.asarray(inputs), [jnp.asarray(x) for x in initial])
    assert_close(ours, outputs.detach().numpy())
    assert_close(state, states_from_torch([f.detach().numpy() for f in finals], num_layers, bidirectional))
    assert_close(gradients[0], {key: value.grad.numpy() for key, value in module.named_parameters()})
    assert_close(gradients[1:], (leaves[0].grad.numpy(), [leaf.grad.numpy() for leaf in leaves[1:]]))


@pytest.mark.parametrize("name", ["mgu", "coupled_lstm"])
def test_tied_gates(name):
    """MGU is torch's GRU with z = 1 - r, the coupled LSTM torch's LSTM with i = 1 - f, both by negated weights."""
    cell = {"mgu": MGU(H), "coupled_lstm": LSTM(H, coupled=True)}[name]
    module = torch.nn.GRU(I, H, batch_first=True) if name == "mgu" else torch.nn.LSTM(I, H, batch_first=True)
    blocks = {key: normal(k, *value.shape) for k, (key, value) in enumerate(module.named_parameters())}
    free, tied = (slice(0, H), slice(H, 2 * H)) if name == "mgu" else (slice(H, 2 * H), slice(0, H))
    for value in blocks.values():
        value[tied] = -value[free]
    module.load_state_dict({key: torch.tensor(value) for key, value in blocks.items()})
    inputs = normal(8, B, T, I)
    outputs, final = module(torch.tensor(inputs))

    def untie(weight):
        keep = np.r_[0:H, 2 * H : 3 * H] if name == "mgu" else np.r_[H : 4 * H]
        return weight[keep]

    params = {"kernel": untie(blocks["weight_ih_l0"]).T, "recurrent_kernel": untie(blocks["weight_hh_l0"]).T}
    if name == "mgu":
        outside = np.concatenate([blocks["bias_hh_l0"][:H], np.zeros(H, np.float32)])
        params |= {"bias": untie(blocks["bias_ih_l0"]) + outside, "recurrent_bias": blocks["bias_hh_l0"][2 * H :]}
    else:
        params["bias"] = untie(blocks["bias_ih_l0"]) + untie(blocks["bias_hh_l0"])
    state, ours = flaxrnn.scan(cell, params, inputs)
    assert_close(ours, outputs.detach().numpy())
    finals = [f[0].detach().numpy() for f in final] if isinstance(final, tuple) else [final[0].detach().numpy()]
    assert_close(list(state), finals)
