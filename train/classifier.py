"""A classifier of sequences: recurrent layers, what each direction knows at its end, a dense layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import flaxrnn
from flaxrnn.layers import drop, split_key


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Reads a sequence, and says from what it then remembers which class the sequence is of.

    The parameters are `{"layers": ..., "dense": {"kernel": [H, classes], "bias": [classes]}}`, where H is the output
    size of the layers.

    Attributes:
      layers: the recurrent layers.
      classes: how many classes there are.
    """

    layers: flaxrnn.Stack
    classes: int

    def init(self, key: jax.Array, input_size: int) -> dict[str, Any]:
        """Draws the parameters for inputs of `input_size` features."""
        layers_key, dense_key = jax.random.split(key)
        kernel = jax.nn.initializers.lecun_normal()(dense_key, (self.layers.output_size, self.classes))
        dense = {"kernel": kernel, "bias": jnp.zeros(self.classes)}
        return {"layers": self.layers.init(layers_key, input_size), "dense": dense}

    def apply(self, params: dict[str, Any], inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The logits `[batch, classes]` of `inputs` `[batch, time, features]`; dropout is on where there is a key."""
        layers_key, dense_key = split_key(key)
        _, outputs = self.layers.apply(params["layers"], inputs, key=layers_key)
        features = drop(dense_key, final_outputs(self.layers.layers[-1], outputs), self.layers.dropout)
        return features @ params["dense"]["kernel"] + params["dense"]["bias"]

    def loss(
        self, params: dict[str, Any], inputs: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The mean cross entropy of a batch in training, and the share of it that is classified rightly."""
        logits = self.apply(params, inputs, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


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
