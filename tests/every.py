"""Every cell, in every variant, for tests that hold for all of them."""

import jax

from flaxrnn.cells import GRU, LSTM, MGU, Elman, Zoneout
from tests.own_cell import Leaky

CELLS = {
    "elman": Elman(5),
    "elman_relu": Elman(5, activation=jax.nn.relu),
    "lstm": LSTM(5),
    "lstm_peephole": LSTM(5, peephole=True),
    "lstm_coupled": LSTM(5, coupled=True),
    "lstm_projection": LSTM(5, projection_size=3),
    "lstm_clip": LSTM(5, cell_clip=0.4),
    "lstm_everything": LSTM(5, 0.5, peephole=True, coupled=True, projection_size=3, cell_clip=0.4, projection_clip=0.3),
    "gru": GRU(5),
    "gru_reset_before": GRU(5, reset_after=False),
    "mgu": MGU(5),
    "mgu_reset_before": MGU(5, reset_after=False),
}

# further: cells with the options of every gated cell, a wrapper, and a cell that a user wrote
ALL = CELLS | {
    "lstm_layer_norm": LSTM(5, layer_norm=True, learn_initial_state=True),
    "gru_layer_norm": GRU(5, layer_norm=True, learn_initial_state=True),
    "gru_reset_before_layer_norm": GRU(5, reset_after=False, layer_norm=True),
    "zoneout": Zoneout(LSTM(5, projection_size=3), hidden_rate=0.1, cell_rate=0.2),
    "own": Leaky(5),
}

# what the native strategy refuses: sums along the features, and wrappers
NOT_NATIVE = {"lstm_layer_norm", "gru_layer_norm", "gru_reset_before_layer_norm", "zoneout"}

# for the default tier: between them they take every path of the library
SOME = {"elman", "lstm_everything", "gru_layer_norm", "gru_reset_before_layer_norm", "zoneout", "own"}
FEW = {"lstm_everything", "gru_layer_norm", "own"}
