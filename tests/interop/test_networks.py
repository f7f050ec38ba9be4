"""Whole networks, drawn at random: they go out and come back as they were, or there is an error that says why not."""

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
            options(peephole=[True], coupled=[True], projection_size=sizes, cell_clip=[0.5], forget_bias=[0.0]),
        ),
        st.builds(lambda size, given: GRU(size, **given), size, options(reset_after=[False], layer_norm=[True])),
        st.builds(
            lambda size, activation: Elman(size, activation=activation),
            size,
            st.sampled_from([relu, sigmoid, jax.nn.relu, jax.numpy.sin]),
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


def exported(framework, layer, params):
    """What a framework has of a network; None if it has no such one."""
    try:
        return getattr(interop, framework).export_weights(layer, params, **FRAMEWORKS[framework])
    except ValueError as error:
        assert "has no" in str(error) or "layers are all alike" in str(error) or "concatenates" in str(error), error
        return None


@pytest.mark.parametrize("framework", FRAMEWORKS)
@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999))
def test_there_and_back(framework, layer, seed):
    module, given = getattr(interop, framework), FRAMEWORKS[framework]
    params = random_params(layer, 3, seed)
    if framework == "nnx":  # whose GRU has no bias inside the reset
        params = jax.tree_util.tree_map_with_path(lambda path, x: x * (path[-1].key != "recurrent_bias"), params)
    weights = exported(framework, layer, params)
    if weights is None:
        return
    same = near if framework == "haiku" else assert_equal  # Haiku adds 1 at run time
    same(module.import_weights(layer, weights, **given), params)
    try:
        found = module.layer_for(weights)
        back = module.import_weights(found, weights, **given)
    except ValueError as error:  # what the names and shapes do not tell
        known = (
            "the order of the layers",
            "the layer below it gives",
            "these alone",
            "which",
            "takes",
            "for 3 features",
        )
        assert any(words in str(error) for words in known), error
        return
    for own, other in zip(split_params(found, back), split_params(layer, params), strict=True):
        if own.keys() == other.keys():  # coupled gates, say, cannot be seen in ONNX's arrays
            same(own, other)


def near(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=0, atol=5e-7), actual, expected)


@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999), lengths=st.booleans())
def test_torch_computes_the_same(layer, seed, lengths):
    params = random_params(layer, 3, seed)
    weights = exported("torch", layer, params)
    if weights is None:
        return
    inputs, steps = normal(seed, 2, 3, 3), np.array([3, 1]) if lengths else None
    harness.agree(layer, params, inputs, steps, test_torch.run(layer, weights, inputs, steps))


@SETTINGS
@hypothesis.given(layer=networks(), seed=st.integers(0, 999), lengths=st.booleans())
def test_onnx_runtime_computes_the_same(layer, seed, lengths):
    params = random_params(layer, 3, seed)
    try:
        model = interop.onnx.export_model(layer, params, lengths=lengths)
    except ValueError as error:
        assert "ONNX has no" in str(error) or "a pair of outputs" in str(error) or "within a stack" in str(error), error
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
