"""A trained layer as one portable file of StableHLO, which runs where JAX runs, without flaxrnn."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn.axes import SPATIAL
from flaxrnn.checks import describe
from flaxrnn.interop.arrays import to_jax
from flaxrnn.interop.places import own_params, places
from flaxrnn.layers import Layer

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SEAL = b"flaxrnn sha256 "
"""What stands before the digest at the end of a file, where `jax.export.deserialize` does not look."""


def export_model(
    layer: Layer,
    params: Any,
    *,
    time: int | None = None,
    lengths: bool = False,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> bytes:
    """Serializes `layer.apply` with its parameters, by `jax.export`, for any number of sequences.

    The program takes `inputs`, `[batch, time, features]` in the dtype of the parameters, and, if asked for, `lengths`,
    `[batch]`, int32. For convolutional cells, inputs are `[batch, time, *spatial, channels]`, of any spatial size. It
    gives `(state, outputs)`, where a state is a dict of its fields, so that the file can be read
    without flaxrnn: `jax.export.deserialize(data).call(inputs)`.

    Args:
      layer: the layer; dropout is left out, as in evaluation.
      params: its parameters, which become constants of the program.
      time: how many steps the inputs have; None for any number.
      lengths: whether the program takes lengths too.
      platforms: what it is compiled for when it is called.

    Returns:
      The bytes of the file. JAX promises to read them for six months of its releases.

    Example:
      >>> import jax, flaxrnn
      >>> from flaxrnn import interop
      >>> layer = flaxrnn.RNN(flaxrnn.cells.GRU(4))
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> data = interop.stablehlo.export_model(layer, params)
      >>> state, outputs = interop.stablehlo.load_model(data)(jax.numpy.ones([7, 5, 3]))
      >>> state["hidden"].shape, outputs.shape
      ((7, 4), (7, 5, 4))
    """
    unknown = [name for name in platforms if name not in PLATFORMS]
    if isinstance(platforms, str) or unknown:
        raise ValueError(f"platforms is {platforms!r}: pass some of {', '.join(PLATFORMS)}, such as ('cpu', 'tpu')")
    first_path = places(layer)[0].path
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: to_jax(jax.tree_util.keystr(path), np.asarray(leaf)), params
    )
    first = own_params(layer, params, first_path)
    input_size, dtype = first["kernel"].shape[-2], first["kernel"].dtype
    batch, steps, *spatial = jax.export.symbolic_shape(", ".join(["batch, time", *SPATIAL[: layer.feature_axes - 1]]))
    shape = (batch, steps if time is None else time, *spatial, input_size)
    arguments = [jax.ShapeDtypeStruct(shape, dtype)]
    if lengths:
        arguments.append(jax.ShapeDtypeStruct((batch,), jnp.int32))

    def run(inputs: jax.Array, lengths: jax.Array | None = None) -> tuple[Any, Any]:
        state, outputs = layer.apply(params, inputs, lengths=lengths, strategy="plain")
        return _fields(state), outputs

    program = bytes(jax.export.export(jax.jit(run), platforms=platforms)(*arguments).serialize())
    return program + SEAL + hashlib.sha256(program).digest()


def load_model(data: bytes) -> Callable[..., tuple[Any, Any]]:
    """The program in the bytes that `export_model` made: `(inputs)` or `(inputs, lengths)` to `(state, outputs)`.

    Raises:
      ValueError: if the bytes are no such program, or damaged, or of a version that this JAX does not read. They are
        compared with the digest at their end first, since XLA's reader can end the process on a damaged program.
    """
    if not isinstance(data, bytes | bytearray):
        raise TypeError(f"data is {describe(data)}: pass the bytes of the file, such as pathlib.Path(...).read_bytes()")
    program, seal, digest = bytes(data).rpartition(SEAL)
    if not seal or hashlib.sha256(program).digest() != digest:
        raise ValueError("this is not what export_model wrote: it is damaged, or from elsewhere; export the layer anew")
    try:
        return jax.jit(jax.export.deserialize(bytearray(program)).call)
    except Exception as error:
        raise ValueError(
            f"this program is of a version that JAX {jax.__version__} does not read: export the layer anew"
        ) from error


def _fields(state: Any) -> Any:
    """A state with dicts in the place of NamedTuples, which only flaxrnn knows."""
    if hasattr(state, "_asdict"):
        return dict(state._asdict())
    return tuple(_fields(part) for part in state) if isinstance(state, tuple) else state
