"""The table of what goes in and out of where, in docs/interop.md; `python -m tests.interop.table` writes it anew."""

import pathlib

import jax
import numpy as np

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, MGU, ConvGRU, ConvLSTM, Elman
from flaxrnn.interop.arrays import flatten
from tests.compare import random_params

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "interop.md"
BEGIN, END = "<!-- made by tests/interop/table.py -->", "<!-- the end of the table -->"

FRAMEWORKS = {
    "torch": "torch",
    "keras": "Keras 3",
    "tf1": "TF1",
    "linen": "flax.linen",
    "nnx": "flax.nnx",
    "haiku": "Haiku",
    "equinox": "Equinox",
    "cudnn": "cuDNN's vector",
    "onnx": "ONNX",
}
LAYERS = {
    "`Elman`": RNN(Elman(4)),
    "… `activation=relu`": RNN(Elman(4, activation=jax.nn.relu)),
    "`LSTM`": RNN(LSTM(4)),
    "… `peephole=True`": RNN(LSTM(4, peephole=True)),
    "… `coupled=True`": RNN(LSTM(4, coupled=True)),
    "… `projection_size=2`": RNN(LSTM(4, projection_size=2)),
    "… `cell_clip=1.0`": RNN(LSTM(4, cell_clip=1.0)),
    "… `use_bias=False`": RNN(LSTM(4, use_bias=False)),
    "`GRU`": RNN(GRU(4)),
    "… `reset_after=False`": RNN(GRU(4, reset_after=False)),
    "… `use_bias=False`, `reset_after=False`": RNN(GRU(4, reset_after=False, use_bias=False)),
    "`MGU`": RNN(MGU(4)),
    "`ConvLSTM`": RNN(ConvLSTM(4, (3, 3))),
    "`ConvGRU`": RNN(ConvGRU(4, (3, 3))),
    "`Bidirectional`, `LSTM`": Bidirectional(LSTM(4), LSTM(4)),
    "`Bidirectional`, `GRU` of two sizes": Bidirectional(GRU(4), GRU(5)),
    "`Stack`, `LSTM`": Stack([RNN(LSTM(4))] * 3),
    "`Stack` of two kinds": Stack([RNN(LSTM(4)), RNN(GRU(4))]),
}


def table():
    """The table, as Markdown."""
    lines = ["| |" + "".join(f" {name} |" for name in FRAMEWORKS.values()), "|---|" + "---|" * len(FRAMEWORKS)]
    for name, layer in LAYERS.items():
        params = jax.tree.map(np.asarray, random_params(layer, 3))
        lines.append(f"| {name} |" + "".join(f" {entry(getattr(interop, key), layer, params)} |" for key in FRAMEWORKS))
    return "\n".join(lines)


def entry(framework, layer, params):
    """What becomes of a layer on its way to a framework and back."""
    try:
        weights = framework.export_weights(layer, params)
    except ValueError as error:
        if "recurrent_bias" not in str(error):
            return ""
        zeroed = jax.tree_util.tree_map_with_path(lambda path, x: x * (path[-1].key != "recurrent_bias"), params)
        framework.export_weights(layer, zeroed)
        return "b\u2032 = 0"
    back = framework.import_weights(layer, weights)
    same = jax.tree.map(np.array_equal, back, params)
    has_biases = not isinstance(weights, dict) or any(name.endswith(("bias", "/b", "/B")) for name in flatten(weights))
    if has_biases and not any("bias" in name for name in flatten(params)):
        return "b = 0"
    return "✓" if jax.tree.all(same) else "≈"


def page():
    """The page with the table in it."""
    before, rest = PAGE.read_text().split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page())
