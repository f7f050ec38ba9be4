"""Whole networks, drawn at random: they go out and come back as they were, or there is an error that says why not."""

import re

import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest

from flaxrnn import RNN, Bidirectional, Stack, interop
from flaxrnn.cells import GRU, LSTM, MGU, Elman
from flaxrnn.cells.elman import relu
from flaxrnn.interop.arithmetic import sigmoid
from flaxrnn.interop.places import is_residual, plain_layers, split_params
from tests.compare import assert_equal, normal, random_params
from tests.interop import harness, test_onnx, test_torch

SETTINGS = hypothesis.settings(
    max_examples=40, deadline=None, derandomize=True, phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate]
)
FRAMEWORKS = {
    "torch": {},
    "keras": {},
    "tf1": {"forget_bias": 0.0},
    "linen": {},
    "nnx": {},
    "haiku": {},
    "equinox": {},
    "cudnn": {},
    "onnx": {},
}


def options(**values):
    """Some of these options, with a value each; mostly none."""
    return st.fixed_dictionaries({}, optional={name: st.sampled_from(given) for name, given in values.items()})


def cells(sizes):
    """A cell of one of these sizes, with any of the options that frameworks have or have not."""
    size = st.sampled_from(sizes)
    plain = st.sampled_from([LSTM, GRU, Elman])
    return st.one_of(
        st.builds(lambda kind, size: kind(size), plain, size),
        st.builds(
            lambda size, given: LSTM(size, **given),
            size,
            options(
                peephole=[True],
                coupled=[True],
                projection_size=sizes,
                cell_clip=[0.5],
                forget_bias=[0.0],
                use_bias=[False],
            ),
        ),
        st.builds(
            lambda size, given: GRU(size, **given),
            size,
            options(reset_after=[False], layer_norm=[True], use_bias=[False]),
        ),
        st.builds(
            lambda size, activation, use_bias: Elman(size, activation=activation, use_bias=use_bias),
            size,
            st.sampled_from([relu, sigmoid, jax.nn.relu, jax.numpy.sin]),
            st.booleans(),
        ),
        st.builds(MGU, size),
    )


@st.composite
def networks(draw):
    """An RNN, a Bidirectional, or a Stack of these; of few cells, so that they are often alike."""
    sizes = draw(st.sampled_from([(2,), (2, 3)]))
    pool = st.sampled_from(draw(st.lists(cells(sizes), min_size=1, max_size=2)))

    def one():
        first, second = draw(pool), draw(pool)
        if draw(st.booleans()):
            return RNN(first, reverse=draw(st.sampled_from([False, False, True])))
        merges = ["concat", "concat", None]
        merges += ["sum", "mean", "mul"] if first.output_size == second.output_size else []
        return Bidirectional(first, second, merge=draw(st.sampled_from(merges)))

    parts = [one() for _ in range(draw(st.sampled_from([1, 1, 2, 3])))]
    hypothesis.assume(all(isinstance(part.output_size, int) for part in parts[:-1]))
    if len(parts) == 1:
        return parts[0]
    alike = len({part.output_size for part in parts}) == 1
    if len(parts) == 3 and draw(st.booleans()):
        parts = [parts[0], Stack(parts[1:])]
    return Stack(parts, residual=alike and draw(st.booleans()))


def attempt(function, *arguments, **given):
    """What a function gives, or else the message of its ValueError."""
    try:
        return function(*arguments, **given), ""
    except ValueError as error:
        return None, str(error)


HAS_NOT = r"has no|layers are all alike|concatenates the outputs|a pair of outputs|a stack within a stack"


@pytest.mark.parametrize("framework", FRAMEWORKS)
@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999))
def test_there_and_back(framework, layer, seed):
    module, given = getattr(interop, framework), FRAMEWORKS[framework]
    params = random_params(layer, 3, seed)
    if framework == "nnx":  # whose GRU has no bias inside the reset
        params = jax.tree_util.tree_map_with_path(lambda path, x: x * (path[-1].key != "recurrent_bias"), params)
    weights, message = attempt(module.export_weights, layer, params, **given)
    if message:
        assert re.search(HAS_NOT, message)
        return
    same = near if framework == "haiku" else assert_equal  # Haiku adds 1 at run time
    same(module.import_weights(layer, weights, **given), params)
    if framework == "cudnn":  # whose vector says nothing of the layer
        return
    found, _ = attempt(module.layer_for, weights)
    back, _ = attempt(module.import_weights, found, weights, **given) if found else (None, "")
    if back is None:  # the names and shapes do not tell the layer, and that is said
        return
    for own, other in zip(split_params(found, back), split_params(layer, params), strict=True):
        if jax.tree.map(np.shape, own) == jax.tree.map(np.shape, other):  # ONNX's arrays do not tell coupled gates
            same(own, other)


def near(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=5e-7), actual, expected)


@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999), lengths=st.booleans())
def test_torch_computes_the_same(layer, seed, lengths):
    params = random_params(layer, 3, seed)
    weights, message = attempt(interop.torch.export_weights, layer, params)
    if message:
        assert re.search(HAS_NOT, message)
        return
    inputs, steps = normal(seed, 2, 3, 3), np.array([3, 1]) if lengths else None
    harness.agree(layer, params, inputs, steps, test_torch.run(layer, weights, inputs, steps))


@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999), lengths=st.booleans())
def test_onnx_runtime_computes_the_same(layer, seed, lengths):
    params = random_params(layer, 3, seed)
    model, message = attempt(interop.onnx.export_model, layer, params, lengths=lengths)
    if message:
        assert re.search(HAS_NOT, message)
        return
    inputs, steps = normal(seed, 2, 3, 3), np.array([3, 1]) if lengths else None
    harness.agree(layer, params, inputs, steps, test_onnx.run_model(layer, model, inputs, steps))
    found = interop.onnx.layer_for(model)
    assert_equal(interop.onnx.import_weights(layer, model), params)
    assert is_residual(found) == is_residual(layer)
    assert [type(part) for part in plain_layers(found)] == [type(part) for part in plain_layers(layer)]
    back = interop.onnx.import_weights(found, model)
    for own, other in zip(split_params(found, back), split_params(layer, params), strict=True):
        assert_equal(own, other)
