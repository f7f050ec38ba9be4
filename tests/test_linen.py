"""The linen modules, and what people have asked Flax's RNNs for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxrnn
import flaxrnn.linen
from flaxrnn.cells import GRU, LSTM, HiddenState
from tests.compare import assert_close, assert_equal, normal, random_params, random_state
from tests.every import CELLS
from tests.own_cell import Leaky
from tests.tiers import tiers

B, T, I = 3, 6, 4
KEY = jax.random.key(0)
INPUTS = jnp.asarray(normal(0, B, T, I))
LENGTHS = np.array([6, 2, 4])


@pytest.mark.parametrize("name", tiers([*CELLS, "own"], {"lstm_everything", "gru", "own"}))
def test_a_module_is_its_layer(name):
    """Its parameters are the layer's, and so are its results."""
    cell = CELLS.get(name, Leaky(5))
    layer = flaxrnn.RNN(cell)
    params, state = random_params(layer, I), random_state(layer, (B,))
    module = flaxrnn.linen.RNN(cell)
    assert jax.tree.map(jnp.shape, module.init(KEY, INPUTS)) == {"params": jax.tree.map(jnp.shape, params)}
    options = dict(initial_state=state, lengths=LENGTHS, resets=np.arange(B * T).reshape(B, T) % 3 == 0)
    assert_equal(module.apply({"params": params}, INPUTS, **options), layer.apply(params, INPUTS, **options))


def test_bidirectional_and_stack():
    for module in (
        flaxrnn.linen.Bidirectional(LSTM(5), GRU(2), merge=None),
        flaxrnn.linen.Stack([LSTM(5), flaxrnn.Bidirectional(GRU(4), GRU(2)), Leaky(3)]),
        flaxrnn.linen.RNN(flaxrnn.Stack([flaxrnn.RNN(LSTM(5)), flaxrnn.RNN(GRU(2))])),
    ):
        variables = module.init(KEY, INPUTS)
        expected = module.layer.apply(variables["params"], INPUTS, lengths=LENGTHS)
        assert_equal(module.apply(variables, INPUTS, lengths=LENGTHS), expected)


def test_in_place_of_flax_s_own():
    """The same function as `nn.RNN(nn.OptimizedLSTMCell(...))` with the same weights, in one line of a model."""

    class Model(nn.Module):
        ours: bool

        @nn.compact
        def __call__(self, x):
            if self.ours:
                _, x = flaxrnn.linen.RNN(LSTM(5), name="rnn")(x)
            else:
                x = nn.RNN(nn.OptimizedLSTMCell(5, name="rnn"))(x)
            return nn.Dense(2, name="dense")(x)

    theirs = Model(False).init(KEY, INPUTS)
    gates = theirs["params"]["rnn"]
    rnn = {
        "kernel": jnp.concatenate([gates[f"i{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "recurrent_kernel": jnp.concatenate([gates[f"h{gate}"]["kernel"] for gate in "ifgo"], axis=1),
        "bias": jnp.concatenate([gates[f"h{gate}"]["bias"] for gate in "ifgo"]),
    }
    ours = {"params": {"rnn": rnn, "dense": theirs["params"]["dense"]}}
    assert_close(Model(True).apply(ours, INPUTS), Model(False).apply(theirs, INPUTS))


@pytest.mark.slow
def test_a_model_learns():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            state, _ = flaxrnn.linen.Stack([LSTM(16), LSTM(16)], dropout=0.1)(x, deterministic=not train)
            return nn.Dense(1)(state[-1].hidden)[:, 0]

    inputs = jax.random.normal(KEY, (64, 10, 1))
    target = inputs[:, 3, 0]
    model = Model()
    variables = model.init(KEY, inputs, False)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(variables, state, key):
        def loss(variables):
            return jnp.mean((model.apply(variables, inputs, True, rngs={"dropout": key}) - target) ** 2)

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    state = optimizer.init(variables)
    for key in jax.random.split(KEY, 150):
        variables, state = step(variables, state, key)
    assert jnp.mean((model.apply(variables, inputs, False) - target) ** 2) < 0.3 * jnp.var(target)


def test_random_numbers_are_drawn_only_where_they_are_needed():
    variables = flaxrnn.linen.RNN(LSTM(5)).init(KEY, INPUTS)
    flaxrnn.linen.RNN(LSTM(5)).apply(variables, INPUTS, deterministic=False)  # no rngs
    dropping = flaxrnn.linen.RNN(LSTM(5, hidden_dropout=0.5))
    assert_equal(dropping.apply(variables, INPUTS), flaxrnn.linen.RNN(LSTM(5)).apply(variables, INPUTS))
    with pytest.raises(Exception, match="dropout"):
        dropping.apply(variables, INPUTS, deterministic=False)
    one, two, again = (
        dropping.apply(variables, INPUTS, deterministic=False, rngs={"dropout": jax.random.key(seed)})[1]
        for seed in (1, 2, 1)
    )
    assert np.any(one != two)
    assert_equal(one, again)


def test_remat():
    class Model(nn.Module):
        remat: bool

        @nn.compact
        def __call__(self, x):
            module = nn.remat(flaxrnn.linen.RNN) if self.remat else flaxrnn.linen.RNN
            return module(LSTM(5), name="rnn")(x)[1]

    variables = Model(False).init(KEY, INPUTS)

    def gradient(remat):
        return jax.grad(lambda variables: jnp.sum(Model(remat).apply(variables, INPUTS) ** 2))(variables)

    assert_close(gradient(True), gradient(False), rtol=1e-6)


def test_remat_in_training():
    """`nn.remat` does not pass on a keyword that is no array: `deterministic` and `strategy` are fields too."""
    module = nn.remat(flaxrnn.linen.RNN)(GRU(5, hidden_dropout=0.5), deterministic=False, strategy="plain")
    variables = module.init({"params": KEY, "dropout": KEY}, INPUTS)
    plain = flaxrnn.linen.RNN(GRU(5, hidden_dropout=0.5))

    def gradient(module, **options):
        def loss(variables):
            return jnp.sum(module.apply(variables, INPUTS, **options, rngs={"dropout": KEY})[1] ** 2)

        return jax.grad(loss)(variables)

    assert_close(gradient(module), gradient(plain, deterministic=False), rtol=1e-6)


def test_vmap():
    """An ensemble: a network of its own for each of three sets of inputs."""
    ensemble = nn.vmap(flaxrnn.linen.RNN, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0)(GRU(5))
    inputs = jnp.asarray(normal(1, 3, B, T, I))
    variables = ensemble.init(KEY, inputs)
    assert variables["params"]["kernel"].shape == (3, I, 15)
    _, outputs = ensemble.apply(variables, inputs)
    for member in range(3):
        own = jax.tree.map(lambda x, member=member: x[member], variables["params"])
        assert_close(outputs[member], flaxrnn.scan(GRU(5), own, inputs[member])[1], rtol=1e-6)


def test_partitioning_metadata():
    module = flaxrnn.linen.Bidirectional(
        LSTM(5),
        LSTM(5),
        partitioning={"kernel": (None, "model"), "recurrent_kernel": (None, "model"), "bias": ("model",)},
    )
    variables = module.init(KEY, INPUTS)
    specs = nn.get_partition_spec(variables)["params"]
    for direction in ("forward", "backward"):
        assert specs[direction]["kernel"] == jax.sharding.PartitionSpec(None, "model")
        assert specs[direction]["bias"] == jax.sharding.PartitionSpec("model")
    plain = nn.meta.unbox(variables)
    assert_equal(module.apply(variables, INPUTS), module.apply(plain, INPUTS))


def test_dtypes():
    module = flaxrnn.linen.RNN(LSTM(5), dtype=jnp.bfloat16)
    (state, outputs), variables = module.init_with_output(KEY, INPUTS)
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert outputs.dtype == jnp.bfloat16
    assert state.cell.dtype == jnp.float32
    wide = jax.tree.map(lambda field: field.astype(jnp.float32), state)
    assert_equal(
        module.apply(variables, INPUTS, initial_state=wide), module.apply(variables, INPUTS, initial_state=state)
    )


# What people asked for, at https://github.com/google/flax/issues


def test_3507_an_arbitrary_mask():
    module = flaxrnn.linen.RNN(GRU(5))
    variables = module.init(KEY, INPUTS)
    keep = np.array([True, False, True, True, False, True])
    state, outputs = module.apply(variables, INPUTS, mask=np.broadcast_to(keep, (B, T)))
    expected_state, expected = module.apply(variables, INPUTS[:, keep])
    assert_close((state, outputs[:, keep]), (expected_state, expected), rtol=1e-6)


def test_4513_the_initial_state_of_a_bidirectional_layer():
    module = flaxrnn.linen.Bidirectional(LSTM(5), LSTM(7))
    variables = module.init(KEY, INPUTS)
    initial = random_state(module.layer, (B,))
    (forward, backward), outputs = module.apply(variables, INPUTS, initial_state=initial)
    params = variables["params"]
    expected_forward = flaxrnn.scan(LSTM(5), params["forward"], INPUTS, initial_state=initial[0])
    expected_backward = flaxrnn.scan(LSTM(7), params["backward"], INPUTS, initial_state=initial[1], reverse=True)
    assert_equal((forward, outputs[..., :5]), expected_forward)
    assert_equal((backward, outputs[..., 5:]), expected_backward)


def test_3595_stacks():
    module = flaxrnn.linen.Stack([LSTM(5)] * 3)
    (state, outputs), variables = module.init_with_output(KEY, INPUTS)
    assert sorted(variables["params"]) == ["layer_0", "layer_1", "layer_2"]
    assert [s.hidden.shape for s in state] == [(B, 5)] * 3
    assert outputs.shape == (B, T, 5)


def test_3613_one_order_of_results():
    """The state first, the output second, in the cell and in the layer."""
    cell = GRU(5)
    module = flaxrnn.linen.RNN(cell)
    variables = module.init(KEY, INPUTS)
    from_cell = cell.step(variables["params"], cell.initial_state((B,)), INPUTS[:, 0])
    state, outputs = module.apply(variables, INPUTS[:, :1])
    assert_close((state, outputs[:, 0]), from_cell, rtol=1e-6)


@pytest.mark.parametrize("reverse", [False, True])
def test_3151_the_initial_state_among_the_outputs(reverse):
    module = flaxrnn.linen.RNN(LSTM(5, learn_initial_state=True), reverse=reverse, include_initial=True)
    variables = {"params": random_params(module.cell, I)}
    place = slice(T, T + 1) if reverse else slice(0, 1)
    rest = slice(0, T) if reverse else slice(1, T + 1)
    state, outputs = module.apply(variables, INPUTS)
    assert outputs.shape == (B, T + 1, 5)
    assert_equal(outputs[:, place], jnp.broadcast_to(variables["params"]["initial_hidden"], (B, 1, 5)))
    expected = flaxrnn.linen.RNN(LSTM(5, learn_initial_state=True), reverse=reverse).apply(variables, INPUTS)
    assert_equal((state, outputs[:, rest]), expected)
    initial = random_state(module.cell, (B,))
    _, outputs = module.apply(variables, INPUTS, initial_state=initial)
    assert_equal(outputs[:, place][:, 0], initial.hidden)
    _, outputs = module.apply(variables, INPUTS, initial_state=initial, lengths=LENGTHS)
    for row, length in enumerate(LENGTHS):  # next to the sequence that it begins
        assert_equal(outputs[row, length if reverse else 0], initial.hidden[row])
        assert not np.any(outputs[row, length + 1 :])


def test_91_a_learnable_initial_state():
    module = flaxrnn.linen.RNN(GRU(5, learn_initial_state=True))
    variables = module.init(KEY, INPUTS)
    assert variables["params"]["initial_hidden"].shape == (5,)
    gradient = jax.grad(lambda variables: jnp.sum(module.apply(variables, INPUTS)[1] ** 2))(variables)
    assert np.any(gradient["params"]["initial_hidden"] != 0)
    variables = {"params": variables["params"] | {"initial_hidden": jnp.arange(5.0)}}
    state, _ = module.apply(variables, INPUTS[:, :0])
    assert_equal(state, HiddenState(jnp.broadcast_to(jnp.arange(5.0), (B, 5))))


def init(**options):
    return flaxrnn.linen.RNN(GRU(5), **options).init(KEY, INPUTS)


WRONG = {
    "not a cell": (
        lambda: flaxrnn.linen.RNN(nn.LSTMCell(5)).init(KEY, INPUTS),
        TypeError,
        r"the module's cell is of type LSTMCell: pass a flaxrnn cell",
    ),
    "features": (
        lambda: flaxrnn.linen.RNN(GRU(5)).apply(init(), jnp.ones((B, T, 7))),
        ValueError,
        r"inputs has 7 features, but the parameters were made for 4",
    ),
    "parameters of another cell": (
        lambda: flaxrnn.linen.RNN(LSTM(5)).apply(init(), INPUTS),
        ValueError,
        r"params\['bias'\] has the shape \[15\]: pass \[20\], as the init of LSTM\(hidden_size=5\) makes",
    ),
    "partitioning name": (
        lambda: init(partitioning={"kernal": (None, "model")}),
        ValueError,
        r"partitioning has 'kernal', but the parameters are bias, kernel, recurrent_bias, recurrent_kernel",
    ),
    "partitioning axes": (
        lambda: init(partitioning={"kernel": ("model",)}),
        ValueError,
        r"partitioning has \('model',\) for 'kernel': pass a name or None for each of its 2 axes",
    ),
    "reverse of a layer": (
        lambda: flaxrnn.linen.RNN(flaxrnn.RNN(GRU(5)), reverse=True).init(KEY, INPUTS),
        ValueError,
        r"reverse and include_initial go with a cell, not with RNN\(",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(name):
    call, error, message = WRONG[name]
    with pytest.raises(error, match=message):
        call()
