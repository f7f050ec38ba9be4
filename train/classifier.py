"""A classifier of images: read as sequences, recurrent layers, what each direction knows at its end, a dense layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import flaxrnn
from flaxrnn.layers import drop, split_key
from train import readout

PERMUTATION = np.random.default_rng(0).permutation(28 * 28)
"""The order of pixels in "permuted-pixels": NumPy's `default_rng(0).permutation(784)`."""


def _pixels(images: jax.Array) -> jax.Array:
    return images.reshape(*images.shape[:-2], -1, 1)


READINGS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "rows": lambda images: images,
    "columns": lambda images: images.swapaxes(-1, -2),
    "pixels": _pixels,
    "permuted-pixels": lambda images: _pixels(images)[..., PERMUTATION, :],
}
"""How images `[batch, 28, 28]` become sequences `[batch, time, features]`: the last two are the sequential and the
permuted MNIST of Le et al. 2015 (arXiv 1504.00941), of 784 steps."""


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Reads an image as a sequence, and says from what it then remembers which class the image is of.

    The parameters are `{"layers": ..., "dense": {"kernel": [H, classes], "bias": [classes]}}`, where H is the output
    size of the layers.

    Attributes:
      layers: the recurrent layers.
      classes: how many classes there are.
      read: a name in `READINGS`.
      strategy: how the layers are run.
      precision: what it computes in; its parameters and its logits are in float32.
    """

    layers: flaxrnn.Stack
    classes: int
    read: str = "rows"
    strategy: str = "auto"
    precision: str = "float32"

    @property
    def input_size(self) -> int:
        """The features of a step."""
        return 28 if self.read in ("rows", "columns") else 1

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Draws the parameters."""
        return readout.init(self.layers, key, self.input_size, self.classes)

    def carry(self) -> tuple[()]:
        """Nothing goes from one batch to the next."""
        return ()

    def apply(self, params: dict[str, Any], images: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The logits `[batch, classes]` of `images` `[batch, 28, 28]`; dropout is on where there is a key."""
        layers_key, dense_key = split_key(key)
        params, images = jax.tree.map(lambda leaf: leaf.astype(self.precision), (params, images))
        sequences = READINGS[self.read](images)
        _, outputs = self.layers.apply(params["layers"], sequences, key=layers_key, strategy=self.strategy)
        features = drop(dense_key, final_outputs(self.layers.layers[-1], outputs), self.layers.dropout)
        return readout.read_out(params, features)

    def loss(
        self, params: dict[str, Any], carry: tuple[()], batch: Any, key: jax.Array
    ) -> tuple[jax.Array, tuple[tuple[()], dict[str, jax.Array]]]:
        """The mean cross entropy of a batch in training, and the share of it that is classified rightly."""
        logits = self.apply(params, batch.images, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == batch.labels)
        return jnp.mean(losses), (carry, {"accuracy": accuracy})


def final_outputs(layer: flaxrnn.Layer, outputs: jax.Array) -> jax.Array:
    """The output of each direction at its own end: the last step forwards, the first step backwards.

    Args:
      layer: the layer on top, which reads forwards or in both directions.
      outputs: `[batch, time, features]`, its outputs, to which a residual stack may have added.
    """
    if not isinstance(layer, flaxrnn.Bidirectional):
        return outputs[:, -1]
    size = layer.forward.output_size
    return jnp.concatenate([outputs[:, -1, :size], outputs[:, 0, size:]], axis=-1)
