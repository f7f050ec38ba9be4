"""Wrong calls, and what each is told."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack
from flaxrnn.cells import GRU, LSTM, Cell, Elman, GatedCell, HiddenState, LSTMState, Zoneout
from tests.compare import assert_equal, normal

CELL = LSTM(4)
PARAMS = CELL.init(jax.random.key(0), 3)
INPUTS = normal(0, 2, 5, 3)
NARROW = CELL.init(jax.random.key(0), 3, jnp.bfloat16)


@dataclasses.dataclass(frozen=True)
class Forgetful(Cell):
    """A cell whose step gives back another state than it took."""

    back: object

    @property
    def output_size(self):
        return 3

    def init(self, key, input_size, dtype=jnp.float32):
        return {}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return HiddenState(jnp.zeros((*batch_shape, 3), dtype))

    def recur(self, params, state, projected, product):
        return self.back(state), projected


@dataclasses.dataclass(frozen=True)
class Undropped(GatedCell):
    """A gated cell that does not pass its candidate through `drop_candidate`."""

    gates = ("candidate",)

    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh(projected[0] + recurrent[0])
        return HiddenState(hidden), hidden


@dataclasses.dataclass(frozen=True)
class NoProperty(Undropped):
    def gates(self):
        return ("candidate",)


@dataclasses.dataclass(frozen=True)
class NoOutput(Undropped):
    def gate(self, params, state, projected, recurrent):
        return HiddenState(jnp.tanh(projected[0] + recurrent[0]))


@dataclasses.dataclass(frozen=True)
class Narrow(Undropped):
    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh(projected[0] + recurrent[0])
        return HiddenState(hidden), hidden[..., :2]


def scan(inputs=INPUTS, cell=CELL, params=PARAMS, **options):
    return flaxrnn.scan(cell, params, inputs, **options)


WRONG_CALLS = {
    "class": (
        lambda: scan(cell=LSTM),
        TypeError,
        r"cell is the class LSTM: pass an instance of it, such as LSTM\(128\)",
    ),
    "not a cell": (lambda: scan(cell="lstm"), TypeError, r"cell is of type str: pass a flaxrnn.cells.Cell"),
    "layer for cell": (
        lambda: scan(cell=RNN(CELL)),
        TypeError,
        r"cell is the layer RNN\(.*: pass a cell, or call the layer's own apply",
    ),
    "features": (
        lambda: scan(normal(0, 2, 5, 7)),
        ValueError,
        r"inputs has 7 features, but the parameters were made for 3: pass \[..., time, 3\]",
    ),
    "rank": (lambda: scan(normal(0, 3)), ValueError, r"inputs has the shape \[3\]: pass \[\*batch, time, features\]"),
    "list": (lambda: scan([[1.0, 2.0, 3.0]]), TypeError, r"inputs is of type list: pass an array, such as jnp.asarray"),
    "integers": (lambda: scan(np.ones((2, 5, 3), int)), TypeError, r"inputs has the dtype int64: .*jax.nn.one_hot"),
    "float lengths": (lambda: scan(lengths=np.ones(2)), TypeError, r"lengths has the dtype float64: pass integers"),
    "lengths shape": (
        lambda: scan(lengths=np.ones(5, int)),
        ValueError,
        r"lengths has the shape \[5\]: pass \[2\], one length for each sequence",
    ),
    "long lengths": (
        lambda: scan(lengths=np.array([5, 6])),
        ValueError,
        r"lengths has 6 in it, but inputs has 5 time steps: pass lengths from 0 to 5",
    ),
    "negative lengths": (lambda: scan(lengths=np.array([-1, 2])), ValueError, r"lengths has -1 in it"),
    "list of lengths": (
        lambda: scan(lengths=[1, 2]),
        TypeError,
        r"lengths is of type list: pass an array, such as jnp.asarray",
    ),
    "mask shape": (
        lambda: scan(mask=np.ones((5, 2), bool)),
        ValueError,
        r"mask has the shape \[5, 2\]: pass \[2, 5\], the shape of inputs without its features",
    ),
    "float mask": (lambda: scan(mask=np.ones((2, 5))), TypeError, r"mask has the dtype float64: pass booleans"),
    "resets shape": (lambda: scan(resets=np.ones(2, bool)), ValueError, r"resets has the shape \[2\]: pass \[2, 5\]"),
    "integer resets": (lambda: scan(resets=np.ones((2, 5), int)), TypeError, r"resets has the dtype int64"),
    "unroll": (lambda: scan(unroll=0), ValueError, r"unroll is 0: pass a positive integer"),
    "float unroll": (lambda: scan(unroll=1.5), TypeError, r"unroll is of type float: pass a positive integer"),
    "strategy": (
        lambda: scan(strategy="fast"),
        ValueError,
        r"no strategy 'fast': pass 'auto', one of checkpointed, fused, native, pallas, plain, or an object",
    ),
    "state of another cell": (
        lambda: scan(initial_state=GRU(4).initial_state((2,))),
        TypeError,
        r"initial_state is HiddenState\(hidden\): pass LSTMState\(hidden, cell\)",
    ),
    "state as a plain tuple": (
        lambda: scan(initial_state=(np.zeros((2, 4)), np.zeros((2, 4)))),
        TypeError,
        r"initial_state is \(an array \[2, 4\], an array \[2, 4\]\): pass LSTMState\(hidden, cell\)",
    ),
    "state of another batch": (
        lambda: scan(initial_state=CELL.initial_state((7,))),
        ValueError,
        r"initial_state.hidden has the shape \[7, 4\]: pass \[2, 4\]",
    ),
    "state of another size": (
        lambda: scan(initial_state=LSTM(6).initial_state((2,))),
        ValueError,
        r"initial_state.hidden has the shape \[2, 6\]: pass \[2, 4\]",
    ),
    "missing parameter": (
        lambda: scan(params={"kernel": PARAMS["kernel"], "bias": PARAMS["bias"]}),
        ValueError,
        r"params has no entry \['recurrent_kernel'\], which LSTM\(hidden_size=4\) needs, but \['bias'\]",
    ),
    "a cell that changes a dtype": (
        lambda: scan(cell=Forgetful(lambda s: HiddenState(s.hidden.astype(jnp.bfloat16))), params={}),
        TypeError,
        r"Forgetful changes the dtype of state.hidden from float32 to bfloat16 in a step: end the step with "
        r"hidden.astype\(state.hidden.dtype\)",
    ),
    "a cell that changes a shape": (
        lambda: scan(cell=Forgetful(lambda s: HiddenState(s.hidden[:1])), params={}),
        ValueError,
        r"Forgetful changes the shape of state.hidden from \[2, 3\] to \[1, 3\]",
    ),
    "a cell that changes the kind of state": (
        lambda: scan(cell=Forgetful(lambda s: LSTMState(s.hidden, s.hidden)), params={}),
        TypeError,
        r"Forgetful took the state HiddenState\(hidden\) and gave back LSTMState\(hidden, cell\)",
    ),
    "a cell that cannot be hashed": (
        lambda: scan(cell=Forgetful([1, 2]), params={}),
        TypeError,
        r"Forgetful cannot be hashed .*@dataclasses.dataclass\(frozen=True\)",
    ),
    "unknown parameter": (
        lambda: scan(params=PARAMS | {"peephole": np.ones((3, 4))}),
        ValueError,
        r"params has an entry \['peephole'\], which LSTM\(hidden_size=4\) does not know: pass what its init made",
    ),
    "parameter of another size": (
        lambda: scan(params=PARAMS | {"bias": np.ones(12)}),
        ValueError,
        r"params\['bias'\] has the shape \[12\]: pass \[16\], as the init of LSTM\(hidden_size=4\) makes",
    ),
    "kernel the wrong way round": (
        lambda: scan(params=PARAMS | {"kernel": PARAMS["kernel"].T}),
        ValueError,
        r"params\['kernel'\] has the shape \[16, 3\]: pass \[3, 16\]",
    ),
    "parameters of another cell": (
        lambda: scan(params=GRU(4).init(jax.random.key(0), 3)),
        ValueError,
        r"params has an entry \['recurrent_bias'\], which LSTM\(hidden_size=4\) does not know",
    ),
    "parameters of a layer": (
        lambda: scan(params={"layer_0": PARAMS}),
        ValueError,
        r"params has no entry \['bias'\], which LSTM\(hidden_size=4\) needs",
    ),
    "parameters of another layer": (
        lambda: Bidirectional(CELL, CELL).apply({"layer_0": PARAMS}, INPUTS),
        ValueError,
        r"params has layer_0: pass Bidirectional's forward, backward, as its init makes",
    ),
    "parameters of a smaller stack": (
        lambda: Stack([RNN(CELL)] * 2).apply({"layer_0": PARAMS}, INPUTS),
        ValueError,
        r"params has layer_0: pass Stack's layer_0, layer_1, as its init makes",
    ),
    "integer state": (
        lambda: scan(initial_state=LSTMState(np.zeros((2, 4)), np.zeros((2, 4), np.int32))),
        TypeError,
        r"initial_state.cell has the dtype int32, but with these inputs and parameters it is float32: pass what",
    ),
    "seed for a key": (
        lambda: scan(key=0),
        TypeError,
        r"key is of type int: pass one random key, such as jax.random.key\(0\)",
    ),
    "numbers for a key": (lambda: scan(key=np.ones(2)), TypeError, r"key is an array \[2\]: pass one random key"),
    "many keys": (
        lambda: scan(key=jax.random.split(jax.random.key(0), 3)),
        TypeError,
        r"key is an array \[3\]: pass one",
    ),
    "time-major lengths": (
        lambda: scan(normal(0, 5, 2, 3), lengths=np.array([5, 3])),
        ValueError,
        r"lengths has the shape \[2\]: pass \[5\], .*; inputs is \[\*batch, time, features\] unless time_major says",
    ),
    "time-major mask": (
        lambda: scan(normal(0, 5, 2, 3), mask=np.ones((2, 5), bool)),
        ValueError,
        r"mask has the shape \[2, 5\]: pass \[5, 2\], .*unless time_major says that it is \[time, \*batch, features\]",
    ),
    "time-major state": (
        lambda: scan(normal(0, 5, 2, 3), initial_state=CELL.initial_state((2,))),
        ValueError,
        r"initial_state.hidden has the shape \[2, 4\]: pass \[5, 4\]",
    ),
    "dropout of everything": (
        lambda: LSTM(4, hidden_dropout=1.0),
        ValueError,
        r"LSTM: hidden_dropout is 1.0: pass a probability, from 0 up to but not 1",
    ),
    "recurrent dropout that would do nothing": (
        lambda: Undropped(4, recurrent_dropout=0.1),
        ValueError,
        r"Undropped does not drop its candidate, so recurrent_dropout would do nothing: in gate, use self",
    ),
    "zoneout of a missing memory": (
        lambda: Zoneout(GRU(4), cell_rate=0.1),
        ValueError,
        r"Zoneout: cell_rate is given, but the state of GRU\(hidden_size=4\) has no field 'cell'",
    ),
    "zoneout of a layer": (lambda: Zoneout(RNN(CELL)), TypeError, r"Zoneout: cell is a RNN: pass a cell"),
    "residual of two sizes": (
        lambda: Stack([RNN(GRU(4)), RNN(GRU(5))], residual=True),
        ValueError,
        r"residual=True needs layers of one size, but they have 4, 5 features",
    ),
    "negative dropout": (
        lambda: Stack([RNN(CELL)], dropout=-0.1),
        ValueError,
        r"Stack: dropout is -0.1: pass a probab",
    ),
    "initial state within a stack": (
        lambda: Stack([RNN(CELL, include_initial=True), RNN(CELL)]),
        ValueError,
        r"layer 0 of Stack has include_initial=True: only the last one may",
    ),
    "initial state within an inner stack": (
        lambda: Stack([Stack([RNN(CELL, include_initial=True)]), RNN(CELL)]),
        ValueError,
        r"layer 0 of Stack has include_initial=True: only the last one may",
    ),
    "initial state in a residual stack": (
        lambda: Stack([RNN(CELL), RNN(CELL, include_initial=True)], residual=True),
        ValueError,
        r"layer 1 of Stack has include_initial=True: only the last one may, without residual=True",
    ),
    "stream with initial states": (
        lambda: RNN(CELL, include_initial=True).stream(PARAMS, None, INPUTS),
        ValueError,
        r"a layer with include_initial=True cannot stream",
    ),
    "state of another dtype": (
        lambda: scan(INPUTS.astype(jnp.bfloat16), params=NARROW, initial_state=CELL.initial_state((2,))),
        TypeError,
        r"initial_state.hidden has the dtype float32, but with these inputs and parameters it is bfloat16: pass what",
    ),
    "step with the state of another cell": (
        lambda: CELL.step(PARAMS, GRU(4).initial_state((2,)), INPUTS[:, 0]),
        TypeError,
        r"state is HiddenState\(hidden\): pass LSTMState\(hidden, cell\)",
    ),
    "step with a state of another size": (
        lambda: CELL.step(PARAMS, LSTM(5).initial_state((2,)), INPUTS[:, 0]),
        ValueError,
        r"state.hidden has the shape \[2, 5\]: pass \[2, 4\]",
    ),
    "step with other features": (
        lambda: CELL.step(PARAMS, CELL.initial_state((2,)), np.ones((2, 7))),
        ValueError,
        r"inputs has 7 features, but the parameters were made for 3",
    ),
    "no features": (
        lambda: CELL.init(jax.random.key(0), 0),
        ValueError,
        r"LSTM: input_size is 0: pass a positive integer",
    ),
    "half a feature": (lambda: CELL.init(jax.random.key(0), 2.5), TypeError, r"LSTM: input_size is 2.5, a float"),
    "seed for the key of init": (lambda: CELL.init(0, 3), TypeError, r"key is of type int: pass one random key"),
    "batch size for a batch shape": (
        lambda: CELL.initial_state(3),
        TypeError,
        r"batch_shape is 3: pass a tuple of sizes, such as \(32,\)",
    ),
    "last of lengths of another batch": (
        lambda: flaxrnn.last(INPUTS, np.array([1, 2, 3])),
        ValueError,
        r"lengths has the shape \[3\]: pass \[2\]",
    ),
    "last of integers": (lambda: flaxrnn.last(np.ones((2, 5, 3), int)), TypeError, r"outputs has the dtype int64"),
    "hidden size zero": (lambda: GRU(0), ValueError, r"GRU: hidden_size is 0: pass a positive integer"),
    "hidden size true": (lambda: GRU(True), ValueError, r"GRU: hidden_size is True: pass a positive integer"),
    "hidden size float": (lambda: GRU(4.0), TypeError, r"GRU: hidden_size is 4.0, a float: pass a positive integer"),
    "projection size": (lambda: LSTM(4, projection_size=-1), ValueError, r"LSTM: projection_size is -1"),
    "projection clip alone": (lambda: LSTM(4, projection_clip=1.0), ValueError, r"projection_clip needs a projection"),
    "cell clip": (lambda: LSTM(4, cell_clip=0.0), ValueError, r"cell_clip is 0.0: pass a positive number, or None"),
    "no cell in a layer": (lambda: RNN("gru"), TypeError, r"cell is of type str"),
    "merge": (lambda: Bidirectional(CELL, CELL, merge="ave"), ValueError, r"no merge 'ave': pass one of concat, sum"),
    "merge of two sizes": (
        lambda: Bidirectional(CELL, GRU(5), merge="sum"),
        ValueError,
        r"merge='sum' needs outputs of one size, but the forward cell has 4 features and the backward cell 5",
    ),
    "empty stack": (lambda: Stack([]), ValueError, r"Stack has no layers"),
    "cell in a stack": (lambda: Stack([Elman(3)]), TypeError, r"layer 0 of Stack is the cell Elman.*: pass RNN\(Elman"),
    "anything in a stack": (lambda: Stack([RNN(CELL), 3]), TypeError, r"layer 1 of Stack is of type int: pass layers"),
    "pair within a stack": (
        lambda: Stack([Bidirectional(CELL, CELL, merge=None), RNN(CELL)]),
        ValueError,
        r"layer 0 of Stack has a pair of outputs \(merge=None\): only the last one may",
    ),
    "dtype of integers": (
        lambda: CELL.init(jax.random.key(0), 3, int),
        TypeError,
        r"dtype is <class 'int'>: pass one of",
    ),
    "parameters of integers": (
        lambda: scan(params=PARAMS | {"bias": np.ones(16, int)}),
        TypeError,
        r"params\['bias'\] has the dtype int32: pass floating-point numbers",
    ),
    "parameters of strings": (
        lambda: scan(params=PARAMS | {"bias": "zeros"}),
        TypeError,
        r"params\['bias'\] is of type str: pass an array",
    ),
    "sizes as in torch": (lambda: GRU(28, 64), TypeError, r"GRU: reset_after is 64: pass True or False"),
    "word for a switch": (lambda: RNN(CELL, reverse="no"), TypeError, r"RNN: reverse is 'no': pass True or False"),
    "word for a function": (
        lambda: Elman(4, activation="tanh"),
        TypeError,
        r"Elman: activation is 'tanh': pass a function",
    ),
    "number for an initializer": (
        lambda: GRU(4, kernel_init=0.1),
        TypeError,
        r"GRU: kernel_init is 0.1: pass a function",
    ),
    "layer for a stack": (lambda: Stack(RNN(CELL)), TypeError, r"Stack: layers is RNN\(.*: pass a list of layers"),
    "list of merges": (lambda: Bidirectional(CELL, CELL, merge=["sum"]), ValueError, r"no merge \['sum'\]"),
    "seed for the key of a stack": (
        lambda: Stack([RNN(CELL)]).apply({"layer_0": PARAMS}, INPUTS, key=0),
        TypeError,
        r"key is of type int: pass one random key",
    ),
    "time-major layer": (
        lambda: RNN(CELL).apply(PARAMS, INPUTS, time_major=True),
        TypeError,
        r"a layer has no option 'time_major': it takes initial_state, key, check_at_run_time, lengths, mask, resets",
    ),
    "misspelt option": (
        lambda: RNN(CELL).apply(PARAMS, INPUTS, length=3),
        TypeError,
        r"a layer has no option 'length'",
    ),
    "gates that are no property": (
        lambda: NoProperty(4),
        TypeError,
        r"NoProperty: gates is .*: make it a tuple of names",
    ),
    "gate without an output": (
        lambda: scan(cell=NoOutput(4), params=NoOutput(4).init(jax.random.key(0), 3)),
        TypeError,
        r"NoOutput.gate gave back HiddenState\(hidden\): give back \(state, output\)",
    ),
    "output of another size": (
        lambda: scan(cell=Narrow(4), params=Narrow(4).init(jax.random.key(0), 3)),
        ValueError,
        r"Narrow gave an output \[2, 2\], but its output_size is 4",
    ),
    "state of a stack": (
        lambda: Stack([RNN(CELL)]).apply({"layer_0": PARAMS}, INPUTS, initial_state=CELL.initial_state((2,))),
        TypeError,
        r"initial_state is LSTMState\(hidden, cell\): pass a tuple of 1 states",
    ),
    "state of a bidirectional layer": (
        lambda: Bidirectional(CELL, CELL).apply({}, INPUTS, initial_state=CELL.initial_state((2,))),
        TypeError,
        r"pass a tuple of 2 states",
    ),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_call(name):
    call, error, message = WRONG_CALLS[name]
    with pytest.raises(error, match=message):
        call()


def test_the_same_errors_under_jit():
    with pytest.raises(ValueError, match="inputs has 7 features"):
        jax.jit(scan)(normal(0, 2, 5, 7))


def test_lengths_out_of_range_are_found_at_run_time_on_request():
    def run(inputs, lengths):
        return scan(inputs, lengths=lengths, check_at_run_time=True)

    checked = jax.jit(checkify.checkify(run))
    error, result = checked(INPUTS, jnp.array([5, 2]))
    assert error.get() is None
    assert_equal(result, scan(lengths=jnp.array([5, 2])))
    for lengths, wrong in (([5, 6], 6), ([-3, 9], -3), ([0, 7], 7)):
        error, _ = checked(INPUTS, jnp.array(lengths))
        assert f"lengths has {wrong} in it, but inputs has 5 time steps: pass lengths from 0 to 5" in error.get()


def test_a_layer_passes_the_request_on():
    layer = Stack([Bidirectional(CELL, CELL)])
    params = layer.init(jax.random.key(0), 3)

    def run(lengths):
        return layer.apply(params, INPUTS, lengths=lengths, check_at_run_time=True)

    error, _ = jax.jit(checkify.checkify(run))(jnp.array([5, 6]))
    assert "lengths has 6 in it" in error.get()


def test_what_is_accepted():
    """Old keys, of either kind, and a length that is a NumPy scalar."""
    scan(key=jax.random.PRNGKey(0))
    scan(key=jax.random.key(0))
    with jax.default_prng_impl("rbg"):
        scan(key=jax.random.PRNGKey(0))
    scan(INPUTS[0], lengths=np.int64(3))


def test_the_checks_leave_nothing_in_the_compiled_program():
    def plain(params, inputs, lengths):
        return scan(inputs, params=params, lengths=lengths)

    text = jax.jit(plain).lower(PARAMS, INPUTS, np.array([5, 2])).as_text()
    assert "assert" not in text
    assert "custom_call" not in text


def test_the_layer_of_a_stack_is_named():
    layer = Stack([RNN(CELL), RNN(GRU(5))])
    params = layer.init(jax.random.key(0), 3)
    params["layer_1"] = GRU(5).init(jax.random.key(0), 9)
    with pytest.raises(ValueError, match=r"inputs has 4 features, but the parameters were made for 9") as caught:
        layer.apply(params, INPUTS)
    assert any("layer_1 of a Stack, RNN(cell=GRU(hidden_size=5)" in note for note in caught.value.__notes__)


def test_a_cell_that_is_no_dataclass():
    class Forgotten(Undropped):
        leak: float = 0.1

    class Fine(Undropped):
        known: ClassVar[int] = 3

    with pytest.raises(TypeError, match="Forgotten has the fields leak, but is no dataclass: decorate"):
        Forgotten(4, leak=0.2)
    assert Fine(4).known == 3


def test_lengths_that_are_not_at_hand_are_not_waited_for(monkeypatch):
    """Those in an array that is still being computed, or that spans processes, are clipped as under `jit`."""
    monkeypatch.setattr(flaxrnn.checks, "_is_at_hand", lambda array: False)
    _, outputs = scan(lengths=jnp.array([9, 9]))
    np.testing.assert_allclose(outputs, scan()[1], atol=1e-6)
