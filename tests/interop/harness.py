"""What is checked for every framework: the real library and flaxrnn compute the same with the same weights."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn import RNN, Bidirectional, Stack
from tests.compare import assert_equal, random_params

SETTINGS = hypothesis.settings(phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate])


@dataclasses.dataclass(frozen=True)
class Sizes:
    """One example: sizes, a kind of layer, and where randomness begins."""

    batch: int
    time: int
    inputs: int
    hidden: int
    layers: int
    bidirectional: bool
    dtype: str
    lengths: bool
    seed: int

    def layer(self, cell):
        """Layers of that cell."""
        one = Bidirectional(cell, cell) if self.bidirectional else RNN(cell)
        return one if self.layers == 1 else Stack([one] * self.layers)

    def arrays(self):
        """The inputs, and lengths if there are any, from 1 to all steps."""
        rng = np.random.default_rng(self.seed)
        inputs = rng.normal(size=(self.batch, self.time, self.inputs)).astype(self.dtype)
        return inputs, rng.integers(1, self.time + 1, self.batch) if self.lengths else None


def sizes(dtypes=("float32", "float64"), bidirectional=(False, True), lengths=(False, True), most_layers=2):
    """Examples of any size; `layers == 1` is a single layer and not a stack."""
    return st.builds(
        Sizes,
        batch=st.integers(1, 4),
        time=st.integers(1, 6),
        inputs=st.integers(1, 5),
        hidden=st.integers(1, 7),
        layers=st.integers(1, most_layers),
        bidirectional=st.sampled_from(bidirectional),
        dtype=st.sampled_from(dtypes),
        lengths=st.sampled_from(lengths),
        seed=st.integers(0, 2**31 - 1),
    )


def check(framework, cell, example, run, rounded=(), change=lambda params: params):
    """The real library, by `run`, and flaxrnn agree on weights of flaxrnn's and on weights of the library's own.

    Args:
      framework: the module of `flaxrnn.interop`.
      cell: the cell.
      example: the sizes.
      run: `(layer, weights, inputs, lengths) -> (outputs, states)`, by the real library; the states one list for each
        cell, hidden state first. Outputs in the padding do not matter.
      rounded: parameters that do not come back bit for bit.
      change: what is done to parameters that the framework could not have.
    """
    with jax.enable_x64(example.dtype == "float64"):
        layer = example.layer(cell)
        inputs, lengths = example.arrays()
        params = change(random_params(layer, example.inputs, example.seed % 1000, example.dtype))
        weights = framework.export_weights(layer, params)
        agree(layer, params, inputs, lengths, run(layer, weights, inputs, lengths))
        for (path, ours), back in zip(
            jax.tree_util.tree_leaves_with_path(params),
            jax.tree.leaves(framework.import_weights(layer, weights)),
            strict=True,
        ):
            if path[-1].key in rounded:
                np.testing.assert_allclose(back, ours, rtol=0, atol=2e-7)
            else:
                assert ours.dtype == back.dtype
                assert_equal(np.asarray(back).view(np.uint8), np.asarray(ours).view(np.uint8))

        foreign = redrawn(weights, example.seed)
        imported = framework.import_weights(layer, foreign)
        agree(layer, imported, inputs, lengths, run(layer, foreign, inputs, lengths))


def redrawn(weights, seed):
    """Weights of the same names and shapes, with every entry random: both of two biases, for instance."""
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda array: (0.5 * rng.normal(size=array.shape)).astype(array.dtype), weights)
    return {name: drawn[name] for name in weights} if isinstance(weights, dict) else drawn  # in their order


def agree(layer, params, inputs, lengths, theirs):
    """flaxrnn computes what the real library has computed."""
    tolerance = 1e-12 if inputs.dtype == np.float64 else 1e-5
    state, outputs = layer.apply(params, jnp.asarray(inputs), lengths=lengths, strategy="plain")
    their_outputs, their_states = theirs
    valid = np.ones(inputs.shape[:2], bool) if lengths is None else np.arange(inputs.shape[1]) < lengths[:, None]
    their_outputs = np.where(valid[..., None], their_outputs, 0)
    assert outputs.dtype == their_outputs.dtype == inputs.dtype
    np.testing.assert_allclose(outputs, their_outputs, rtol=tolerance, atol=tolerance)
    ours = [list(cell) for cell in jax.tree.leaves(state, is_leaf=lambda x: hasattr(x, "_fields"))]
    assert [len(cell) for cell in ours] == [len(cell) for cell in their_states]
    for own, other in zip(ours, their_states, strict=True):
        for a, b in zip(own, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)
