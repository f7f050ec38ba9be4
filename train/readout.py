"""A dense layer on top of recurrent ones: what all networks of these programs end with."""

from typing import Any

import jax
import jax.numpy as jnp

import flaxrnn


def init(layers: flaxrnn.Stack, key: jax.Array, input_size: int, answers: int) -> dict[str, Any]:
    """Draws `{"layers": ..., "dense": {"kernel": [H, answers], "bias": [answers]}}`, H the output size of `layers`."""
    layers_key, dense_key = jax.random.split(key)
    kernel = jax.nn.initializers.lecun_normal()(dense_key, (layers.output_size, answers))
    dense = {"kernel": kernel, "bias": jnp.zeros(answers)}
    return {"layers": layers.init(layers_key, input_size), "dense": dense}


def read_out(params: dict[str, Any], features: jax.Array) -> jax.Array:
    """The answers `[..., answers]` to `features` `[..., H]`, in float32."""
    return (features @ params["dense"]["kernel"] + params["dense"]["bias"]).astype(jnp.float32)
