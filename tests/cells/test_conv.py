"""ConvLSTM and ConvGRU: their parameters, what they compute, and everything else that runs a cell."""

import dataclasses
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flaxrnn
import flaxrnn.linen
import flaxrnn.nnx
from flaxrnn import RNN, Bidirectional, Stack, cells
from flaxrnn.cells import GRU, LSTM, ConvGRU, ConvLSTM, Zoneout, convolution
from flaxrnn.strategies import Checkpointed, Fused
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.tiers import tiers

B, T, S, I, H = 2, 5, (4, 3), 2, 3  # S: height and width
CELLS = {
    "lstm": ConvLSTM(H, (3, 2)),
    "lstm_everything": ConvLSTM(
        H, (3, 3), peephole=True, peephole_shape=S, coupled=True, projection_size=2, cell_clip=0.9, projection_clip=0.8
    ),
    "lstm_layer_norm": ConvLSTM(H, (3, 3), peephole=True, layer_norm=True, learn_initial_state=True, use_bias=False),
    "gru": ConvGRU(H, (2, 3), learn_initial_state=True),
    "gru_reset_before": ConvGRU(H, (3, 3), reset_after=False),
}
EVERYTHING = {
    "mask": jnp.asarray(np.random.default_rng(0).random((B, T)) < 0.7),
    "resets": jnp.asarray(np.random.default_rng(1).random((B, T)) < 0.4),
    "lengths": jnp.array([4, 5]),
    "reverse": True,
}
INPUTS = normal(0, B, T, *S, I)

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def run(cell, params, inputs=INPUTS, **options):
    return flaxrnn.scan(cell, params, inputs, **options)


@pytest.mark.parametrize("window", [(3,), (3, 2), (3, 2, 1)])
def test_parameters(window):
    params = ConvLSTM(H, window, peephole=True, projection_size=2).init(jax.random.key(0), I, jnp.bfloat16)
    shapes = {
        "kernel": (*window, I, 4 * H),
        "recurrent_kernel": (*window, 2, 4 * H),
        "bias": (4 * H,),
        "peephole": (3, H),
        "projection_kernel": (H, 2),
    }
    assert {name: array.shape for name, array in params.items()} == shapes
    assert {array.dtype for array in params.values()} == {jnp.dtype(jnp.bfloat16)}
    shapes = {"kernel": (*window, I, 3 * H), "recurrent_kernel": (*window, H, 3 * H), "bias": (3 * H,)}
    params = ConvGRU(H, window).init(jax.random.key(0), I)
    assert {name: array.shape for name, array in params.items()} == shapes | {"recurrent_bias": (H,)}


def test_what_parameters_begin_with():
    params = ConvLSTM(16, (3, 5), forget_bias=1.5).init(jax.random.key(0), 50)
    assert np.std(params["kernel"]) == pytest.approx((3 * 5 * 50) ** -0.5, rel=0.02)
    assert_equal(params["bias"], np.repeat([0, 1.5, 0, 0], 16).astype(np.float32))
    for block in jnp.split(params["recurrent_kernel"].reshape(-1, 4 * 16), 4, axis=1):
        assert_close(block.T @ block, np.eye(16), rtol=1e-5)


def test_cells_are_values():
    cell = ConvLSTM(4, [3, 3], layer_norm=True)
    assert repr(cell) == "ConvLSTM(features=4, kernel_size=(3, 3), layer_norm=True)"
    assert (
        cell
        == pickle.loads(pickle.dumps(cell))
        == cells.make("conv_lstm", features=4, kernel_size=(3, 3), layer_norm=True)
    )
    assert dataclasses.replace(cell, features=5) == ConvLSTM(5, (3, 3), layer_norm=True)
    assert dataclasses.replace(cell, features=5).output_size == 5
    assert cells.make("conv_gru", features=4, kernel_size=(3,)) == ConvGRU(4, (3,))


PAIRS = {
    "lstm": (ConvLSTM, LSTM, {}),
    "lstm_everything": (ConvLSTM, LSTM, {"peephole": True, "coupled": True, "projection_size": 2, "cell_clip": 0.5}),
    "lstm_layer_norm": (ConvLSTM, LSTM, {"layer_norm": True, "learn_initial_state": True}),
    "gru": (ConvGRU, GRU, {}),
    "gru_reset_before": (ConvGRU, GRU, {"reset_after": False, "layer_norm": True}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_window_of_one_is_the_cell_at_each_position(name):
    conv_kind, kind, options = PAIRS[name]
    conv, cell = conv_kind(H, (1, 1), **options), kind(H, **options)
    params = random_params(conv, I)
    dense = {key: array.reshape(array.shape[-2:]) if array.ndim == 4 else array for key, array in params.items()}
    state, outputs = run(conv, params)
    positions = jnp.moveaxis(INPUTS, 1, 3)  # batch, height, width and then time
    expected_state, expected = flaxrnn.scan(cell, dense, positions)
    assert_close((tuple(state), jnp.moveaxis(outputs, 1, 3)), (tuple(expected_state), expected))


def test_the_window_sees_the_neighbours_and_zeros_around():
    cell = ConvLSTM(H, (3, 2))
    params = random_params(cell, I)
    inputs = np.zeros([1, 1, 7, 7, I], np.float32)
    inputs[0, 0, 3, 3] = 1
    silent = run(cell, params, np.zeros_like(inputs))[1][0, 0]
    seen = np.argwhere(np.any(run(cell, params, inputs)[1][0, 0] != silent, axis=-1))
    assert seen.min(0).tolist() == [2, 2]  # an even window looks one further to the right, so reaches to the left
    assert seen.max(0).tolist() == [4, 3]
    inputs = normal(0, 1, 3, 5, 4, I)
    around = np.pad(inputs, ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)))
    first = run(cell, params, inputs[:, :1])[1]
    assert_close(run(cell, params, around[:, :1])[1][:, :, 3:-3, 3:-3], first)


def test_peepholes_at_each_position():
    cell = ConvLSTM(H, (3, 3), peephole=True, peephole_shape=S)
    params = random_params(cell, I)
    assert params["peephole"].shape == (3, *S, H)
    same = params | {"peephole": jnp.broadcast_to(params["peephole"][:, :1, :1], (3, *S, H))}
    shared = params | {"peephole": params["peephole"][:, 0, 0]}
    assert_close(run(cell, same), run(ConvLSTM(H, (3, 3), peephole=True), shared))
    with pytest.raises(ValueError, match=r"peepholes of .* are for images of \[4, 3\], but these have \[4, 4\]"):
        run(cell, params, normal(0, B, T, 4, 4, I))


def results(cell, strategy, dtype=jnp.float32, **options):
    """The gradients of a loss, by parameters, inputs and initial state, and the `(state, outputs)` that it is of."""
    params, inputs = random_params(cell, I, dtype=dtype), jnp.asarray(INPUTS, dtype)
    weights = normal(1, B, T, *S, cell.output_size)

    def loss(params, inputs, state):
        state, outputs = run(cell, params, inputs, initial_state=state, strategy=strategy, **options)
        total = jnp.sum(outputs * weights) + sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(state))
        return total, (state, outputs)

    like = cell.initial_state((B, *S), dtype)
    state = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), random_state(cell, (B, *S)), like)
    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(params, inputs, state)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_everything", "gru_reset_before"}))
def test_strategies_agree(name):
    expected = results(CELLS[name], "plain", jnp.float64, **EVERYTHING)
    segment = 2 * 8 * B * 12 * 4 * H  # two or three steps
    for strategy in ("fused", Fused(segment_bytes=segment, keep_bytes=0), Checkpointed(segments=2)):
        assert_close(results(CELLS[name], strategy, jnp.float64, **EVERYTHING), expected, rtol=1e-12)


def test_strategies_agree_in_bfloat16():
    exact_gradients, exact = results(CELLS["lstm"], "plain")
    for strategy in ("plain", "fused"):
        gradients, found = results(CELLS["lstm"], strategy, jnp.bfloat16)
        assert found[1].dtype == found[0].hidden.dtype == gradients[0]["kernel"].dtype == jnp.bfloat16
        assert found[0].cell.dtype == jnp.float32
        assert_close(jax.tree.map(lambda x: np.asarray(x, np.float32), found), exact, rtol=0.05)
        assert_close(jax.tree.map(lambda x: np.asarray(x, np.float32), gradients), exact_gradients, rtol=0.25)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("window", [(4,), (3, 2), (1, 2, 3)])
def test_gradients_of_a_convolution(window, backend, monkeypatch):
    """They are those of JAX, in either form."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    values, kernel = normal(0, 2, 3, *(5, 4, 3)[: len(window)], I), normal(1, *window, I, H)
    result, pull = jax.vjp(convolution.convolve, values, kernel)
    gradient = normal(2, *result.shape)
    found = convolution.values_gradient(gradient, kernel), convolution.kernel_gradient(values, gradient, window)
    assert_close(found, pull(jnp.asarray(gradient)))


def test_second_derivatives():
    cell = ConvGRU(H, (3, 2))
    params = random_params(cell, I)
    direction = random_params(cell, I, seed=1)

    def slope(strategy, params):
        gradient = jax.grad(lambda p: jnp.sum(run(cell, p, strategy=strategy)[1] ** 2))(params)
        return sum(jnp.vdot(gradient[name], direction[name]) for name in params)

    second = [jax.jit(jax.grad(functools.partial(slope, strategy)))(params) for strategy in ("fused", "plain")]
    assert_close(*second, rtol=1e-4)


@pytest.mark.parametrize("name", tiers(CELLS, {"lstm_layer_norm", "gru"}))
def test_lengths_masks_resets_and_directions(name):
    """Each sequence gives what it gives alone, without padding, and the same in either layout."""
    cell = CELLS[name]
    params, lengths = random_params(cell, I), np.array([3, 5])
    padded = np.where((np.arange(T) < lengths[:, None])[..., None, None, None], INPUTS, np.nan)
    for reverse in (False, True):
        state, outputs = run(cell, params, padded, lengths=lengths, reverse=reverse)
        masked = run(cell, params, padded, mask=np.arange(T) < lengths[:, None], reverse=reverse)
        assert_equal(masked, (state, outputs))
        time_major = run(cell, params, padded.swapaxes(0, 1), lengths=lengths, reverse=reverse, time_major=True)
        assert_close((time_major[0], time_major[1].swapaxes(0, 1)), (state, outputs))
        for row, length in enumerate(lengths):
            alone = padded[row, :length][:: -1 if reverse else 1]
            own_state, own = run(cell, params, alone)
            assert_close(outputs[row, :length], own[:: -1 if reverse else 1])
            assert_close(jax.tree.map(lambda leaf, row=row: leaf[row], state), own_state)
        assert not np.any(outputs[0, 3:])
    resets = np.zeros([B, T], bool)
    resets[0, 2] = True
    _, outputs = run(cell, params, resets=resets)
    assert_close(outputs[0, 2:], run(cell, params, INPUTS[0, 2:])[1])
    assert_close(outputs[1], run(cell, params, INPUTS[1])[1])


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_number_of_batch_axes(batch):
    for cell in (ConvLSTM(H, (3,)), ConvGRU(H, (2, 2, 3))):
        spatial = (4, 3, 5)[: len(cell.kernel_size)]
        inputs = normal(0, *batch, T, *spatial, I)
        params = random_params(cell, I)
        state, outputs = run(cell, params, inputs, lengths=np.full(batch, 3))
        assert outputs.shape == (*batch, T, *spatial, H)
        assert state.hidden.shape == (*batch, *spatial, H)
        each = [run(cell, params, one[:3])[1] for one in inputs.reshape(-1, T, *spatial, I)]
        assert_close(outputs.reshape(-1, T, *spatial, H)[:, :3], np.stack(each))


def test_layers():
    layer = Stack([Bidirectional(ConvLSTM(3, (3, 3)), ConvGRU(2, (1, 3))), RNN(ConvLSTM(4, (3, 3)))], residual=False)
    params = random_params(layer, I)
    state, outputs = layer.apply(params, INPUTS, lengths=jnp.array([3, 5]))
    forward, backward = layer.layers[0].forward, layer.layers[0].backward
    below = params["layer_0"]
    options = {"lengths": jnp.array([3, 5])}
    both = [run(forward, below["forward"], **options)[1], run(backward, below["backward"], reverse=True, **options)[1]]
    expected = run(layer.layers[1].cell, params["layer_1"], jnp.concatenate(both, axis=-1), **options)
    assert_close((state[1], outputs), expected)
    like = jax.eval_shape(lambda: layer.initial_state((B, *S)))
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, like)
    lines = flaxrnn.explain(layer, INPUTS).splitlines()
    chosen = [line for line in lines if line[0] != " "]
    assert [line.split("(")[0] for line in chosen] == ["ConvLSTM", "ConvGRU", "ConvLSTM"]
    assert all(": fused, since XLA's own gradients of convolutions are slow" in line for line in chosen)


def test_modules():
    layer = Stack([RNN(ConvLSTM(3, (3, 3))), RNN(ConvGRU(4, (3, 3)))])
    parts = [part.cell for part in layer.layers]
    lengths = jnp.array([3, 5])
    module = flaxrnn.linen.Stack(parts, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), INPUTS)
    _, outputs = module.apply(variables, INPUTS, lengths=lengths, initial_state=layer.initial_state((B, *S)))
    assert outputs.dtype == jnp.bfloat16
    assert_close(
        np.asarray(outputs, np.float32), layer.apply(variables["params"], INPUTS, lengths=lengths)[1], rtol=0.05
    )
    module = flaxrnn.nnx.Stack(parts, I, rngs=nnx.Rngs(0))
    params = {name: {key: p[...] for key, p in getattr(module, name).items()} for name in ("layer_0", "layer_1")}
    assert_close(module(INPUTS, lengths=lengths), layer.apply(params, INPUTS, lengths=lengths))
    with pytest.raises(
        ValueError, match=r"inputs has the shape \[5, 4, 3\]: pass \[\*batch, time, height, width, channels\]"
    ):
        module(INPUTS[0, ..., 0])


def test_streaming():
    layer = Stack([RNN(ConvGRU(3, (3, 3))), RNN(ConvLSTM(2, (3, 3), peephole=True))])
    params = random_params(layer, I)
    whole, outputs = layer.apply(params, INPUTS, strategy="plain")
    state, chunks = None, []
    for chunk in (INPUTS[:, :1], INPUTS[:, 1:4], INPUTS[:, 4:]):
        state, chunk_outputs = layer.stream(params, state, chunk, strategy="plain")
        chunks.append(chunk_outputs)
    assert_close((state, jnp.concatenate(chunks, axis=1)), (whole, outputs))


@pytest.mark.parametrize("reverse", [False, True])
def test_initial_state_among_the_outputs(reverse):
    cell = CELLS["gru"]
    params, lengths = random_params(cell, I), np.array([3, 5])
    _, longer = RNN(cell, reverse, include_initial=True).apply(params, INPUTS, lengths=jnp.asarray(lengths))
    _, outputs = run(cell, params, lengths=lengths, reverse=reverse)
    learned = np.broadcast_to(params["initial_hidden"], (*S, H))
    for row, length in enumerate(lengths):
        place = length if reverse else 0
        assert_close(longer[row], np.insert(outputs[row], place, learned, axis=0))


def test_last():
    lengths = np.array([3, 0])
    assert_equal(flaxrnn.last(INPUTS, lengths, feature_axes=3), np.stack([INPUTS[0, 2], 0 * INPUTS[0, 0]]))


def test_dropout_and_zoneout():
    """A mask for each position and channel, the same at all steps; zoneout anew at each step."""
    cell = ConvLSTM(H, (3, 3), input_dropout=0.4, hidden_dropout=0.4, recurrent_dropout=0.4)
    params, key = random_params(cell, I), jax.random.key(1)
    noisy, _ = cell.perturb(key, params, jnp.moveaxis(jnp.asarray(INPUTS), 1, 0))
    assert noisy["input_mask"].shape == (B, *S, I)
    assert noisy["hidden_mask"].shape == noisy["candidate_mask"].shape == (B, *S, H)
    state, expected = cell.initial_state((B, *S)), []
    for step in range(T):
        state, output = cell.step(noisy, state, INPUTS[:, step])
        expected.append(output)
    for strategy in ("plain", "fused"):
        assert_close(run(cell, params, key=key, strategy=strategy)[1], np.stack(expected, 1))
    wrapped = Zoneout(ConvGRU(H, (3, 3)), hidden_rate=0.5)
    params = random_params(wrapped, I)
    _, outputs = run(wrapped, params, key=key, strategy="plain")
    stayed = np.mean(np.asarray(outputs[:, 1:] == outputs[:, :-1]))
    assert 0.3 < stayed < 0.7
    assert_close(run(wrapped, params, key=key, strategy="fused")[1], outputs)


@dataclasses.dataclass(frozen=True)
class Fades(cells.Cell):
    """A cell of one's own over images, whose gates see no neighbours."""

    feature_axes = 3
    output_size = I

    def init(self, key, input_size, dtype=jnp.float32):
        return {"rate": jnp.full(input_size, 0.5, dtype)}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return cells.HiddenState(jnp.zeros((*batch_shape, I), dtype))

    def recur(self, params, state, projected, product):
        hidden = params["rate"] * state.hidden + projected
        return cells.HiddenState(hidden), hidden


def test_a_cell_of_ones_own_over_images():
    params = {"rate": jnp.array([0.5, 0.25])}
    expected, total = [], np.zeros([B, *S, I])
    for step in range(T):
        total = np.array([0.5, 0.25]) * total + INPUTS[:, step]
        expected.append(total)
    for strategy in ("plain", "fused", "checkpointed"):
        state, outputs = run(Fades(), params, lengths=jnp.array([3, 5]), strategy=strategy)
        assert_close(outputs[1], np.stack(expected, 1)[1])
        assert_close(state.hidden[0], expected[2][0])


WRONG = {
    "an int": (
        lambda: ConvLSTM(3, 3),
        "ConvLSTM: kernel_size is 3: pass a tuple with one number for each of one to three",
    ),
    "four axes": (lambda: ConvGRU(3, (3, 3, 3, 3)), "ConvGRU: kernel_size is .*: pass a tuple"),
    "nothing": (lambda: ConvGRU(3, (3, 0)), "ConvGRU: kernel_size is 0: pass a positive integer"),
    "features": (lambda: ConvLSTM(0, (3, 3)), "ConvLSTM: features is 0: pass a positive integer"),
    "no peephole": (
        lambda: ConvLSTM(3, (3, 3), peephole_shape=(4, 4)),
        "peephole_shape is given, but peephole is False",
    ),
    "other axes": (
        lambda: ConvLSTM(3, (3, 3), peephole=True, peephole_shape=(4,)),
        r"peephole_shape is \(4,\), but kernel_size is \(3, 3\)",
    ),
    "clip": (lambda: ConvLSTM(3, (3, 3), cell_clip=0), "ConvLSTM: cell_clip is 0"),
    "two kinds of inputs": (
        lambda: Stack([RNN(ConvLSTM(3, (3, 3))), RNN(LSTM(3))]),
        r"layer 1 of Stack takes \[\*batch, time, features\], but those below it \[\*batch, time, height, width, chann",
    ),
    "two directions": (
        lambda: Bidirectional(ConvLSTM(3, (3,)), ConvLSTM(3, (3, 3))),
        r"forward cell takes \[\*batch, time, width, channels\], but the backward cell \[\*batch, time, height, width",
    ),
    "too few axes": (
        lambda: scan(INPUTS[0, 0]),
        r"inputs has the shape \[4, 3, 2\]: pass \[\*batch, time, height, width, ch",
    ),
    "channels": (
        lambda: scan(INPUTS[..., :1]),
        r"inputs has 1 channels, but the parameters were made for 2: pass \[..., 2\], or make",
    ),
    "lengths": (lambda: scan(lengths=jnp.ones([B, T], int)), r"lengths has the shape \[2, 5\]: pass \[2\], one length"),
    "mask": (
        lambda: scan(mask=jnp.ones([T, B], bool)),
        r"mask has the shape \[5, 2\]: pass \[2, 5\].*unless time_major says that it is \[time, \*batch, height,",
    ),
    "initial state": (
        lambda: scan(initial_state=ConvLSTM(3, (3, 3)).initial_state((B,))),
        r"initial_state.hidden has the shape \[2, 3\]: pass \[2, 4, 3, 3\], as cell.initial_state\(\(2, 4, 3\)\) "
        r"makes; inputs is taken as \[\*batch, time, height, width, channels\]",
    ),
}


def scan(inputs=INPUTS, **options):
    cell = ConvLSTM(3, (3, 3))
    return flaxrnn.scan(cell, cell.init(jax.random.key(0), I), inputs, **options)


@pytest.mark.parametrize("name", WRONG)
def test_errors_say_what_to_pass(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
