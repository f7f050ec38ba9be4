"""Wrong calls, and what each is told."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxrnn
from flaxrnn import RNN, Bidirectional, Stack
from flaxrnn.cells import GRU, LSTM, Cell, Elman, GatedCell, HiddenState, LSTMState, Zoneout
from tests.compare import assert_equal, normal

CELL = LSTM(4)
PARAMS = CELL.init(jax.random.key(0), 3)
INPUTS = normal(0, 2, 5, 3)


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

    def recur(self, params, state, projected):
        return self.back(state), projected


@dataclasses.dataclass(frozen=True)
class Undropped(GatedCell):
    """A gated cell that does not pass its candidate through `drop_candidate`."""

    @property
    def gates(self):
        return ("candidate",)

    def gate(self, params, state, projected, recurrent):
        hidden = jnp.tanh(projected + recurrent)
        return HiddenState(hidden), hidden


def scan(inputs=INPUTS, cell=CELL, params=PARAMS, **options):
    return flaxrnn.scan(cell, params, inputs, **options)


WRONG_CALLS = {
    "class": (
        lambda: scan(cell=LSTM),
        TypeError,
        r"cell is the class LSTM: pass an instance of it, such as LSTM\(128\)",
    ),
    "not a cell": (lambda: scan(cell="lstm"), TypeError, r"cell is a str: pass a flaxrnn.cells.Cell"),
    "layer for cell": (lambda: scan(cell=RNN(CELL)), TypeError, r"cell is a RNN: pass a flaxrnn.cells.Cell"),
    "features": (
        lambda: scan(normal(0, 2, 5, 7)),
        ValueError,
        r"inputs has 7 features, but the parameters were made for 3: pass \[..., time, 3\]",
    ),
    "rank": (lambda: scan(normal(0, 3)), ValueError, r"inputs has the shape \[3\]: pass \[\*batch, time, features\]"),
    "list": (lambda: scan([[1.0, 2.0, 3.0]]), TypeError, r"inputs is a list: pass an array"),
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
    "list of lengths": (lambda: scan(lengths=[1, 2]), TypeError, r"lengths is a list: pass an array"),
    "mask shape": (
        lambda: scan(mask=np.ones((5, 2), bool)),
        ValueError,
        r"mask has the shape \[5, 2\]: pass \[2, 5\], the shape of inputs without its features",
    ),
    "float mask": (lambda: scan(mask=np.ones((2, 5))), TypeError, r"mask has the dtype float64: pass booleans"),
    "resets shape": (lambda: scan(resets=np.ones(2, bool)), ValueError, r"resets has the shape \[2\]: pass \[2, 5\]"),
    "integer resets": (lambda: scan(resets=np.ones((2, 5), int)), TypeError, r"resets has the dtype int64"),
    "unroll": (lambda: scan(unroll=0), ValueError, r"unroll is 0: pass a positive integer"),
    "float unroll": (lambda: scan(unroll=1.5), TypeError, r"unroll is a float: pass a positive integer"),
    "strategy": (lambda: scan(strategy="fast"), ValueError, r"no strategy 'fast': pass 'auto' or one of plain"),
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
        r"params has no entry \['recurrent_kernel'\], which LSTM\(hidden_size=4\) needs: pass what its init made",
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
        r"params has no entry \['(kernel|recurrent_kernel|bias)'\], which LSTM\(hidden_size=4\) needs",
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
        r"initial_state.cell has the dtype int32: pass floating-point numbers",
    ),
    "seed for a key": (lambda: scan(key=0), TypeError, r"key is a int: pass an array"),
    "numbers for a key": (lambda: scan(key=np.ones(2)), TypeError, r"key has the dtype float64: pass a random key"),
    "many keys": (
        lambda: scan(key=jax.random.split(jax.random.key(0), 3)),
        ValueError,
        r"key is 3 random keys: pass one",
    ),
    "time-major lengths": (
        lambda: scan(normal(0, 5, 2, 3), lengths=np.array([5, 3])),
        ValueError,
        r"lengths has the shape \[2\]: pass \[5\], .*; inputs is \[batch, time, features\] unless time_major says",
    ),
    "time-major mask": (
        lambda: scan(normal(0, 5, 2, 3), mask=np.ones((2, 5), bool)),
        ValueError,
        r"mask has the shape \[2, 5\]: pass \[5, 2\], .*unless time_major says that it is \[time, batch, features\]",
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
    "checked of a compiled function": (
        lambda: flaxrnn.checked(jax.jit(scan)),
        TypeError,
        r"checked was given a function that jax.jit made: pass the plain function",
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
    "no cell in a layer": (lambda: RNN("gru"), TypeError, r"cell is a str"),
    "merge": (lambda: Bidirectional(CELL, CELL, merge="ave"), ValueError, r"no merge 'ave': pass one of concat, sum"),
    "merge of two sizes": (
        lambda: Bidirectional(CELL, GRU(5), merge="sum"),
        ValueError,
        r"merge='sum' needs outputs of one size, but the forward cell has 4 features and the backward cell 5",
    ),
    "empty stack": (lambda: Stack([]), ValueError, r"Stack has no layers"),
    "cell in a stack": (lambda: Stack([Elman(3)]), TypeError, r"layer 0 of Stack is the cell Elman.*: pass RNN\(Elman"),
    "anything in a stack": (lambda: Stack([RNN(CELL), 3]), TypeError, r"layer 1 of Stack is a int: pass layers"),
    "pair within a stack": (
        lambda: Stack([Bidirectional(CELL, CELL, merge=None), RNN(CELL)]),
        ValueError,
        r"layer 0 of Stack has a pair of outputs \(merge=None\): only the last one may",
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


def test_checked_finds_lengths_out_of_range_at_run_time():
    run = flaxrnn.checked(lambda inputs, lengths: scan(inputs, lengths=lengths))
    assert_equal(run(INPUTS, jnp.array([5, 2])), scan(lengths=jnp.array([5, 2])))
    for lengths, wrong in (([5, 6], 6), ([-3, 9], -3)):
        with pytest.raises(
            Exception, match=f"lengths has {wrong} in it, but inputs has 5 time steps: pass lengths from 0 to 5"
        ):
            run(INPUTS, jnp.array(lengths))
    scan(lengths=jnp.array([5, 2]))  # what was traced with the checks is not used without them
    jax.jit(lambda lengths: scan(lengths=lengths))(jnp.array([5, 6]))


def test_the_checks_leave_nothing_in_the_compiled_program():
    def plain(params, inputs, lengths):
        return scan(inputs, params=params, lengths=lengths)

    text = jax.jit(plain).lower(PARAMS, INPUTS, np.array([5, 2])).as_text()
    assert "assert" not in text
    assert "custom_call" not in text
