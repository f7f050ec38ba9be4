"""A layer of the user's own: its cells are found by `cells`; what frameworks would compute otherwise is an error."""

import dataclasses

import jax.numpy as jnp
import pytest

from flaxrnn import RNN, Bidirectional, Stack, explain, interop
from flaxrnn.cells import GRU, LSTM
from flaxrnn.layers import Layer
from tests.compare import assert_close, assert_equal, normal, random_params
from tests.own_cell import Leaky


@dataclasses.dataclass(frozen=True)
class Scaled(Layer):
    """Another layer's outputs, each scaled; with `learned` by parameters of its own."""

    inner: Layer
    learned: bool = False

    stochastic = False

    @property
    def output_size(self):
        return self.inner.output_size

    def cells(self, input_size):
        return [part._replace(path=("inner", *part.path)) for part in self.inner.cells(input_size)]

    def init(self, key, input_size, dtype=jnp.float32):
        scale = {"scale": jnp.ones(self.output_size, dtype)} if self.learned else {}
        return {"inner": self.inner.init(key, input_size, dtype), **scale}

    def initial_state(self, batch_shape=(), dtype=jnp.float32):
        return self.inner.initial_state(batch_shape, dtype)

    def begin(self, params, batch_shape=(), dtype=jnp.float32):
        return self.inner.begin(params["inner"], batch_shape, dtype)

    def apply(self, params, inputs, **options):
        state, outputs = self.inner.apply(params["inner"], inputs, **options)
        return state, outputs * params.get("scale", 2)

    def check_streams(self):
        self.inner.check_streams()


INNER = Stack([Bidirectional(LSTM(4), LSTM(3, use_bias=False)), RNN(LSTM(2), reverse=True)])


@pytest.mark.parametrize("framework", ["keras", "tf1", "linen", "nnx", "haiku", "equinox"])
def test_weights_are_those_of_the_cells(framework):
    module = getattr(interop, framework)
    exact = {"forget_bias": 0.0} if framework == "tf1" else {}
    params = random_params(INNER, 3)
    weights = module.export_weights(INNER, params, **exact)
    assert_equal(module.export_weights(Scaled(INNER), {"inner": params}, **exact), weights)
    same = assert_close if framework == "haiku" else assert_equal  # Haiku adds 1 at run time
    same(module.import_weights(Scaled(INNER), weights, **exact), {"inner": params})
    above = Stack([Scaled(RNN(LSTM(4))), RNN(LSTM(2))])
    params = random_params(above, 3)
    same(module.import_weights(above, module.export_weights(above, params, **exact), **exact), params)


@pytest.mark.parametrize("framework", ["torch", "cudnn", "onnx"])
def test_a_whole_network_of_a_framework_computes_something_else(framework):
    layer, module = Scaled(RNN(LSTM(4))), getattr(interop, framework)
    params = random_params(layer, 3)
    export = module.export_model if framework == "onnx" else module.export_weights
    with pytest.raises(
        TypeError, match="layer is of type Scaled, and what that computes is not known here: pass an RNN"
    ):
        export(layer, params)
    if framework == "onnx":
        model = module.export_model(layer.inner, params["inner"])
        with pytest.raises(TypeError, match="layer is of type Scaled"):
            module.import_weights(layer, model)


def test_parameters_besides_those_of_cells_are_not_dropped():
    layer = Scaled(RNN(GRU(4)), learned=True)
    params = random_params(layer, 3)
    with pytest.raises(
        ValueError, match=r"scale of params belong to no cell of Scaled.*: pass the layers of its cells"
    ):
        interop.keras.export_weights(layer, params)
    weights = interop.keras.export_weights(layer.inner, params["inner"])
    with pytest.raises(ValueError, match="scale of params belong to no cell of Scaled"):
        interop.keras.import_weights(layer, weights)
    with pytest.raises(ValueError, match="params has no inner/kernel, but scale: pass what the init of Scaled"):
        interop.keras.export_weights(layer, {"scale": params["scale"]})


@pytest.mark.parametrize("layer", [Scaled(INNER, learned=True), Scaled(RNN(Leaky(4)))], ids=["learned", "own cell"])
def test_a_portable_program(layer):
    params, inputs = random_params(layer, 3), normal(0, 2, 5, 3)
    _, outputs = interop.stablehlo.load_model(interop.stablehlo.export_model(layer, params))(inputs)
    assert_close(outputs, layer.apply(params, inputs)[1])


def test_explain_and_errors_know_it():
    said = explain(Scaled(INNER), jnp.zeros([2, 5, 3]))
    assert [line.split("(")[0] for line in said.splitlines() if not line.startswith(" ")] == ["LSTM"] * 3
    layer = Scaled(RNN(Leaky(4)))
    with pytest.raises(ValueError, match="Keras has no Leaky"):
        interop.keras.export_weights(layer, random_params(layer, 3))
    with pytest.raises(TypeError, match=r"layer is of type LSTM: pass a layer, such as RNN\(cell\)"):
        interop.keras.export_weights(LSTM(4), random_params(LSTM(4), 3))
