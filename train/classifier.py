"""A classifier of sequences: recurrent layers, the last hidden state of each direction, a dense layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import flaxrnn
from flaxrnn.layers import drop


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Reads a sequence, and says from what it then remembers which class the sequence is of.

    The parameters are `{"layers": ..., "dense": {"kernel": [H, classes], "bias": [classes]}}`, where H is the size of
    the last hidden state, both directions together.

    Attributes:
      layers: the recurrent layers.
      classes: how many classes there are.
    """

    layers: flaxrnn.Stack
    classes: int

    def init(self, key: jax.Array, input_size: int) -> dict[str, Any]:
        """Draws the parameters for inputs of `input_size` features."""
        layers_key, dense_key = jax.random.split(key)
        hidden = last_hidden(jax.eval_shape(self.layers.initial_state))
        kernel = jax.nn.initializers.lecun_normal()(dense_key, (sum(h.shape[-1] for h in hidden), self.classes))
        dense = {"kernel": kernel, "bias": jnp.zeros(self.classes)}
        return {"layers": self.layers.init(layers_key, input_size), "dense": dense}

    def apply(self, params: dict[str, Any], inputs: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The logits `[batch, classes]` of `inputs` `[batch, time, features]`; dropout is on where there is a key."""
        layers_key, dense_key = (None, None) if key is None else jax.random.split(key)
        state, _ = self.layers.apply(params["layers"], inputs, key=layers_key)
        features = drop(dense_key, jnp.concatenate(last_hidden(state), axis=-1), self.layers.dropout)
        return features @ params["dense"]["kernel"] + params["dense"]["bias"]

    def loss(
        self, params: dict[str, Any], inputs: jax.Array, labels: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The mean cross entropy of a batch in training, and the share of it that is classified rightly."""
        logits = self.apply(params, inputs, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses), jnp.mean(jnp.argmax(logits, axis=-1) == labels)


def last_hidden(state: Any) -> list[Any]:
    """The hidden states of a `Stack`'s top layer: one, or in a bidirectional layer the pair."""
    top = state[-1]
    return [top.hidden] if hasattr(top, "hidden") else [direction.hidden for direction in top]
