"""The real linen, Keras and Haiku: their convolutional LSTMs; and torch's convolutions, for what none of them has."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn.cells import ConvGRU, ConvLSTM
from tests.compare import assert_close, normal, random_params
from tests.peers.peer import peer
from tests.tiers import tiers

pytestmark = pytest.mark.usefixtures("compiled_quickly")

B, T, I, H = 2, 4, 2, 3
SPATIAL, WINDOW = (5, 4, 3), (3, 2, 1)
AXES = tiers([1, 2, 3], {2})


def agree(theirs, ours, weights, inputs):
    """Both functions, `(weights, inputs) -> (state, outputs)`, have the same results and the same gradients."""
    cotangent = normal(9, *jax.eval_shape(ours, weights, inputs)[1].shape)

    def loss(function):
        def loss(weights, inputs):
            state, outputs = function(weights, inputs)
            return jnp.sum(outputs * cotangent) + sum(jnp.sum(leaf**2) for leaf in state), (list(state), outputs)

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))

    assert_close(loss(ours)(weights, inputs), loss(theirs)(weights, inputs))


def from_igfo(weights):
    """Gates i, g, f, o as i, f, g, o, along the last axis."""
    i, g, f, o = jnp.split(weights, 4, axis=-1)
    return jnp.concatenate([i, f, g, o], axis=-1)


def forget_one(bias):
    """The 1 that linen and Haiku add to the forget gate at run time; gates i, f, g, o."""
    return bias.at[H : 2 * H].add(1)


@pytest.mark.parametrize("axes", AXES)
def test_linen(axes):
    window, spatial = WINDOW[:axes], SPATIAL[:axes]
    module = nn.RNN(nn.ConvLSTMCell(H, window), return_carry=True)
    inputs = normal(0, B, T, *spatial, I)
    variables = jax.tree.map(lambda x: normal(x.size, *x.shape) / 2, module.init(jax.random.key(0), inputs))

    def theirs(variables, inputs):
        (cell, hidden), outputs = module.apply(variables, inputs)
        return (hidden, cell), outputs

    def ours(variables, inputs):
        tree = variables["params"]["cell"]
        params = {
            "kernel": from_igfo(tree["ih"]["kernel"]),
            "recurrent_kernel": from_igfo(tree["hh"]["kernel"]),
            "bias": forget_one(from_igfo(tree["ih"]["bias"] + tree["hh"]["bias"])),
        }
        return flaxrnn.scan(ConvLSTM(H, window), params, inputs)

    agree(theirs, ours, variables, inputs)


@pytest.mark.parametrize("axes", AXES)
def test_keras(axes):
    keras = peer("keras")
    window, spatial = WINDOW[:axes], SPATIAL[:axes]
    kind = (keras.layers.ConvLSTM1D, keras.layers.ConvLSTM2D, keras.layers.ConvLSTM3D)[axes - 1]
    layer = kind(H, window, padding="same", return_sequences=True, return_state=True)
    inputs = normal(0, B, T, *spatial, I)
    layer.build(inputs.shape)
    weights = [jnp.asarray(normal(k + 1, *w.shape)) / 2 for k, w in enumerate(layer.trainable_variables)]
    unused = list(layer.non_trainable_variables)

    def theirs(weights, inputs):
        (outputs, *state), _ = layer.stateless_call(weights, unused, inputs)
        return state, outputs

    def ours(weights, inputs):
        params = dict(zip(("kernel", "recurrent_kernel", "bias"), weights, strict=True))
        return flaxrnn.scan(ConvLSTM(H, window), params, inputs)

    agree(theirs, ours, weights, inputs)


@pytest.mark.parametrize("axes", AXES)
def test_haiku(axes):
    hk = peer("haiku")
    window, spatial = WINDOW[:axes], SPATIAL[:axes]
    kind = (hk.Conv1DLSTM, hk.Conv2DLSTM, hk.Conv3DLSTM)[axes - 1]

    def unroll(inputs):
        core = kind(spatial, H, window)
        return hk.dynamic_unroll(core, inputs, core.initial_state(B), time_major=False)

    model = hk.without_apply_rng(hk.transform(unroll))
    inputs = normal(0, B, T, *spatial, I)
    weights = jax.tree.map(lambda x: normal(x.size, *x.shape) / 2, model.init(jax.random.key(0), inputs))

    def theirs(weights, inputs):
        outputs, state = model.apply(weights, inputs)
        return (state.hidden, state.cell), outputs

    def ours(weights, inputs):
        first, second = (weights[f"conv{axes}_dlstm/{name}"] for name in ("input_to_hidden", "hidden_to_hidden"))
        params = {
            "kernel": from_igfo(first["w"]),
            "recurrent_kernel": from_igfo(second["w"]),
            "bias": forget_one(from_igfo(first["b"] + second["b"])),
        }
        return flaxrnn.scan(ConvLSTM(H, window), params, inputs)

    agree(theirs, ours, weights, inputs)


CELLS = {
    "peephole": ConvLSTM(H, (3, 3), peephole=True),
    "peephole at each position": ConvLSTM(H, (3, 3), peephole=True, peephole_shape=SPATIAL[:2]),
    "gru": ConvGRU(H, (3, 3)),
    "gru, reset before": ConvGRU(H, (3, 3), reset_after=False),
}


@pytest.mark.parametrize("name", CELLS)
def test_torch(name):
    """The papers' equations, with the convolutions and the derivatives of torch."""
    torch = peer("torch")
    cell, spatial = CELLS[name], SPATIAL[:2]
    params, inputs = random_params(cell, I), normal(0, B, T, *spatial, I)
    weights = normal(1, B, T, *spatial, H)

    def convolve(values, kernel):
        channels_first = torch.nn.functional.conv2d(values.movedim(-1, 1), kernel.permute(3, 2, 0, 1), padding="same")
        return channels_first.movedim(1, -1)

    def step_lstm(p, state, x, h):
        memory, pi, pf, po = state[1], *p["peephole"]
        i, f, g, o = (x + h).chunk(4, -1)
        i, f = torch.sigmoid(i + pi * memory), torch.sigmoid(f + pf * memory)
        memory = f * memory + i * torch.tanh(g)
        return [torch.sigmoid(o + po * memory) * torch.tanh(memory), memory]

    def step_gru(p, state, x, h):
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
        r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
        if cell.reset_after:
            n = torch.tanh(xn + r * (hn + p["recurrent_bias"]))
        else:
            n = torch.tanh(xn + convolve(r * state[0], p["recurrent_kernel"][..., 2 * H :]))
        return [z * state[0] + (1 - z) * n]

    p = {key: torch.tensor(np.asarray(array), requires_grad=True) for key, array in params.items()}
    x = torch.tensor(inputs, requires_grad=True)
    state, outputs = [torch.zeros(B, *spatial, H) for _ in cell.initial_state()], []
    for t in range(T):
        projected = convolve(x[:, t], p["kernel"]) + p["bias"]
        step = step_lstm if isinstance(cell, ConvLSTM) else step_gru
        state = step(p, state, projected, convolve(state[0], p["recurrent_kernel"]))
        outputs.append(state[0])
    outputs = torch.stack(outputs, 1)
    torch.sum(outputs * torch.tensor(weights)).backward()

    def loss(params, inputs):
        state, outputs = flaxrnn.scan(cell, params, inputs)
        return jnp.sum(outputs * weights), (list(state), outputs)

    gradients, results = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, inputs)
    assert_close(results, ([leaf.detach().numpy() for leaf in state], outputs.detach().numpy()))
    assert_close(gradients, ({key: leaf.grad.numpy() for key, leaf in p.items()}, x.grad.numpy()))
