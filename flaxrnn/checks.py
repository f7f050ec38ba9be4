"""What is wrong with the arguments of a call, and what to pass instead.

All of it is decided from types, shapes and dtypes, before anything is compiled, so it costs nothing at run time.
"""

import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxrnn.axes import Axes


def check_inputs(inputs: Any, axes: Axes, name: str = "inputs") -> None:
    """Raises an error unless `inputs` is a floating-point array with axes for time and features."""
    check_array(name, inputs)
    if inputs.ndim < 1 + axes.features:
        raise ValueError(f"{name} has the shape {list(inputs.shape)}: pass {axes}; a single step is for cell.step")
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"{name} has the dtype {inputs.dtype}: pass floating-point numbers, such as {name}.astype(jnp.float32); "
            "embed tokens or make them one-hot (jax.nn.one_hot) first"
        )


def check_lengths(lengths: Any, shape: tuple[int, ...], axes: Axes) -> None:
    """Raises an error unless `lengths` is None or `[*batch]` integers, and where they are known, from 0 to time.

    `shape` is that of the inputs.
    """
    if lengths is None:
        return
    batch_shape, time = axes.batch(shape), shape[axes.time(shape)]
    check_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths has the dtype {lengths.dtype}: pass integers, such as lengths.astype(jnp.int32)")
    if lengths.shape != batch_shape:
        raise ValueError(
            f"lengths has the shape {list(lengths.shape)}: pass {list(batch_shape)}, one length for each sequence"
            + (_time_major_hint(axes) if lengths.shape == (time,) else "")
        )
    if isinstance(lengths, jax.Array) and not _is_at_hand(lengths):
        return
    lengths = np.asarray(lengths)
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        wrong = lengths[(lengths < 0) | (lengths > time)][0]
        raise ValueError(f"lengths has {wrong} in it, but inputs has {time} time steps: pass lengths from 0 to {time}")


def _is_at_hand(array: jax.Array) -> bool:
    """Whether the values of an array can be read without waiting for a computation or for another process."""
    if isinstance(array, jax.core.Tracer):
        return False
    return array.is_fully_addressable and bool(array.is_ready())  # type: ignore[attr-defined]


def check_marks(name: str, marks: Any, shape: tuple[int, ...], axes: Axes) -> None:
    """Raises an error unless `marks`, a mask or resets, is None or booleans, one for each step of inputs of `shape`."""
    if marks is None:
        return
    check_array(name, marks)
    if marks.dtype != bool:
        raise TypeError(f"{name} has the dtype {marks.dtype}: pass booleans, such as {name}.astype(bool)")
    steps = axes.steps(shape)
    if marks.shape != steps:
        raise ValueError(
            f"{name} has the shape {list(marks.shape)}: pass {list(steps)}, the shape of inputs without its features"
            + (_time_major_hint(axes) if marks.shape == steps[::-1] else "")
        )


def _time_major_hint(axes: Axes) -> str:
    batch_major, time_major = (axes._replace(time_major=either) for either in (False, True))
    return f"; inputs is {batch_major} unless time_major says that it is {time_major}"


def check_unroll(unroll: Any) -> None:
    """Raises an error unless `unroll` is a positive integer."""
    try:
        steps = operator.index(unroll)
    except TypeError:
        raise TypeError(f"unroll is {describe(unroll)}: pass a positive integer") from None
    if steps < 1:
        raise ValueError(f"unroll is {unroll}: pass a positive integer")


def check_state(name: str, state: Any, expected: Any, batch_shape: Any = "batch_shape", why: str = "") -> None:
    """Raises an error unless `state`, called `name`, has fields and shapes as `expected`.

    The error says that `cell.initial_state(batch_shape)` makes them, and ends with `why`.
    """
    if not same_structure(state, expected):
        raise TypeError(f"{name} is {describe(state)}: pass {describe(expected)}, as cell.initial_state makes")
    for path, (given, wanted) in named_leaves(state, expected):
        check_array(f"{name}{path}", given)
        if given.shape != wanted.shape:
            raise ValueError(
                f"{name}{path} has the shape {list(given.shape)}: pass {list(wanted.shape)}, "
                f"as cell.initial_state({batch_shape}) makes{why}"
            )


def check_state_dtypes(state: Any, expected: Any) -> None:
    """Raises an error unless `state`, an initial state, has the dtypes that inputs and parameters give it."""
    for path, (given, wanted) in named_leaves(state, expected):
        if given.dtype != wanted.dtype:
            raise TypeError(
                f"initial_state{path} has the dtype {given.dtype}, but with these inputs and parameters it is "
                f"{wanted.dtype}: pass what cell.initial_state(batch_shape, dtype) makes, or cast that field"
            )


def check_states(states: Any, count: int) -> None:
    """Raises an error unless `states` is None or a tuple of `count` states, as layers of several cells have it."""
    if states is None:
        return
    if not isinstance(states, tuple | list) or hasattr(states, "_fields") or len(states) != count:
        raise TypeError(
            f"initial_state is {describe(states)}: pass a tuple of {count} states, "
            "as layer.initial_state(batch_shape) makes"
        )


def check_key(key: Any) -> None:
    """Raises an error unless `key` is one random key, new style or old."""
    try:
        jax.eval_shape(jax.random.split, key)
    except (TypeError, ValueError):
        raise TypeError(f"key is {describe(key)}: pass one random key, such as jax.random.key(0)") from None


def check_dtype(dtype: Any) -> None:
    """Raises an error unless `dtype` is one of floating-point numbers."""
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype is {dtype}: pass one of floating-point numbers, such as jnp.float32")


def check_leaves(params: Any) -> None:
    """Raises an error unless all leaves of `params` are arrays, or numbers."""
    for path, leaf in _leaves_by_path(params).items():
        if not isinstance(leaf, int | float):
            check_array(f"params{path}", leaf)


def check_params(cell: Any, params: Any, input_size: int) -> None:
    """Raises an error unless `params` has the entries and the shapes that `cell.init` makes for this input size."""
    expected = {path: leaf.shape for path, leaf in _leaves_by_path(init_shapes(cell, input_size)).items()}
    leaves = _leaves_by_path(params)
    given = {path: jnp.shape(leaf) for path, leaf in leaves.items()}
    for path in sorted(expected.keys() - given.keys()):
        found = ", ".join(given) or "nothing"
        raise ValueError(f"params has no entry {path}, which {cell} needs, but {found}: pass what its init made")
    for path in sorted(given.keys() - expected.keys()):
        raise ValueError(f"params has an entry {path}, which {cell} does not know: pass what its init made")
    for path, leaf in leaves.items():
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"params{path} has the dtype {jnp.result_type(leaf)}: pass floating-point numbers")
    if given == expected:
        return
    wrong = next(path for path in expected if given[path] != expected[path])
    if _differs_in_input_size_alone(given[wrong], expected[wrong], input_size):
        cell.check_features(params, input_size)
    raise ValueError(
        f"params{wrong} has the shape {list(given[wrong])}: pass {list(expected[wrong])}, as the init of {cell} makes"
    )


def _differs_in_input_size_alone(given: tuple[int, ...], expected: tuple[int, ...], input_size: int) -> bool:
    return len(given) == len(expected) and [e for g, e in zip(given, expected, strict=True) if g != e] == [input_size]


def check_batch_shape(batch_shape: Any) -> None:
    """Raises an error unless `batch_shape` is a tuple of sizes."""
    if not isinstance(batch_shape, tuple | list):
        raise TypeError(f"batch_shape is {batch_shape!r}: pass a tuple of sizes, such as (32,)")


def check_entries(params: Any, names: Sequence[str], kind: str) -> None:
    """Raises an error unless `params` is a dict with these entries, the parameters of a layer's parts."""
    if not isinstance(params, Mapping) or set(params) != set(names):
        found = ", ".join(map(str, params)) if isinstance(params, Mapping) else describe(params)
        raise ValueError(f"params has {found or 'nothing'}: pass {kind}'s {', '.join(names)}, as its init makes")


@functools.lru_cache(maxsize=256)
def init_shapes(cell_or_layer: Any, input_size: int) -> dict[str, Any]:
    """What the `init` of a cell or a layer makes, as shapes."""
    return jax.eval_shape(functools.partial(cell_or_layer.init, input_size=input_size), jax.random.key(0))


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_step(cell: Any, params: Any, state: Any, inputs: jax.ShapeDtypeStruct) -> None:
    """Raises an error unless a step of `cell` gives a state like the one that it took."""
    kind = type(cell).__name__
    new_state, output = jax.eval_shape(cell.step, params, state, inputs)
    if output.shape[-1:] != (cell.output_size,):
        raise ValueError(f"{kind} gave an output {list(output.shape)}, but its output_size is {cell.output_size}")
    if not same_structure(new_state, state):
        raise TypeError(
            f"{kind} took the state {describe(state)} and gave back {describe(new_state)}: give back the same"
        )
    for path, (new, old) in named_leaves(new_state, state):
        if new.shape != old.shape:
            raise ValueError(
                f"{kind} changes the shape of state{path} from {list(old.shape)} to {list(new.shape)} in a step: "
                "a state keeps its shape from step to step"
            )
        if new.dtype != old.dtype:
            raise TypeError(
                f"{kind} changes the dtype of state{path} from {old.dtype} to {new.dtype} in a step: end the step with "
                f"{path.strip('.') or 'state'}.astype(state{path}.dtype), or begin with an initial_state of {new.dtype}"
            )


def check_array(name: str, value: Any) -> None:
    """Raises an error unless `value` is a JAX or NumPy array, or stands for one."""
    if not isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        raise TypeError(f"{name} is {describe(value)}: pass an array, such as jnp.asarray(...) makes")


def same_structure(tree: Any, other: Any) -> bool:
    """Whether two trees have the same containers, with the same fields."""
    structure: Any = jax.tree.structure(tree)
    return bool(structure == jax.tree.structure(other))


def named_leaves(tree: Any, other: Any) -> list[tuple[str, tuple[Any, Any]]]:
    """The leaves of two trees of the same structure, side by side, each pair with its path, such as `.hidden`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    others = jax.tree.leaves(other)
    return [(jax.tree_util.keystr(path), (leaf, twin)) for (path, leaf), twin in zip(leaves, others, strict=True)]


def describe(value: Any) -> str:
    """A few words for an error message: the fields of a state, the shape of an array, the type of anything else."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return f"{type(value).__name__}({', '.join(value._fields)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(describe, value))})"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {list(value.shape)}"
    return f"of type {type(value).__name__}" if value is not None else "None"
