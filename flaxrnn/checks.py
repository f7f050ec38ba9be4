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

from flaxrnn.cells.base import Cell, State

TIME_MAJOR_HINT = "; inputs is [batch, time, features] unless time_major says that it is [time, batch, features]"


def check_cell(cell: Any) -> None:
    """Raises an error unless `cell` can be scanned and be a static argument of `jit`."""
    if isinstance(cell, type) and issubclass(cell, Cell):
        raise TypeError(f"cell is the class {cell.__name__}: pass an instance of it, such as {cell.__name__}(128)")
    if not isinstance(cell, Cell):
        raise TypeError(f"cell is {describe(cell)}: pass a flaxrnn.cells.Cell, such as flaxrnn.cells.LSTM(128)")
    check_hashable(cell)


def check_hashable(value: Any) -> None:
    """Raises an error unless a cell or a layer can be a static argument of `jit`."""
    try:
        hash(value)
    except TypeError as error:
        kind = type(value).__name__
        raise TypeError(
            f"{kind} cannot be hashed ({error}): decorate the class with @dataclasses.dataclass(frozen=True), and have "
            "tuples, numbers, strings and functions in its fields, no lists and no arrays"
        ) from None


def check_inputs(inputs: Any, name: str = "inputs") -> None:
    """Raises an error unless `inputs` is a floating-point array with a time and a feature axis."""
    check_array(name, inputs)
    if inputs.ndim < 2:
        raise ValueError(
            f"{name} has the shape {list(inputs.shape)}: pass [*batch, time, features]; a single step is for cell.step"
        )
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(
            f"{name} has the dtype {inputs.dtype}: pass floating-point numbers, such as {name}.astype(jnp.float32); "
            "embed tokens or make them one-hot (jax.nn.one_hot) first"
        )


def check_lengths(lengths: Any, batch_shape: tuple[int, ...], time: int) -> None:
    """Raises an error unless `lengths` is None or `[*batch]` integers, and where they are known, from 0 to `time`."""
    if lengths is None:
        return
    check_array("lengths", lengths)
    if not jnp.issubdtype(lengths.dtype, jnp.integer):
        raise TypeError(f"lengths has the dtype {lengths.dtype}: pass integers, such as lengths.astype(jnp.int32)")
    if lengths.shape != batch_shape:
        raise ValueError(
            f"lengths has the shape {list(lengths.shape)}: pass {list(batch_shape)}, one length for each sequence"
            + (TIME_MAJOR_HINT if lengths.shape == (time,) else "")
        )
    if isinstance(lengths, jax.core.Tracer):
        return
    lengths = np.asarray(lengths)
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        wrong = lengths[(lengths < 0) | (lengths > time)][0]
        raise ValueError(f"lengths has {wrong} in it, but inputs has {time} time steps: pass lengths from 0 to {time}")


def check_marks(name: str, marks: Any, shape: tuple[int, ...]) -> None:
    """Raises an error unless `marks`, a mask or resets, is None or booleans, one for each step."""
    if marks is None:
        return
    check_array(name, marks)
    if marks.dtype != bool:
        raise TypeError(f"{name} has the dtype {marks.dtype}: pass booleans, such as {name}.astype(bool)")
    if marks.shape != shape:
        raise ValueError(
            f"{name} has the shape {list(marks.shape)}: pass {list(shape)}, the shape of inputs without its features"
            + (TIME_MAJOR_HINT if marks.shape == shape[::-1] else "")
        )


def check_unroll(unroll: Any) -> None:
    """Raises an error unless `unroll` is a positive integer."""
    try:
        steps = operator.index(unroll)
    except TypeError:
        raise TypeError(f"unroll is {describe(unroll)}: pass a positive integer") from None
    if steps < 1:
        raise ValueError(f"unroll is {unroll}: pass a positive integer")


def check_state(state: State, expected: State) -> None:
    """Raises an error unless `state` has the fields and the shapes of `expected`."""
    if not same_structure(state, expected):
        raise TypeError(f"initial_state is {describe(state)}: pass {describe(expected)}, as cell.initial_state makes")
    for path, (given, wanted) in named_leaves(state, expected):
        check_array(f"initial_state{path}", given)
        if given.shape != wanted.shape:
            raise ValueError(
                f"initial_state{path} has the shape {list(given.shape)}: pass {list(wanted.shape)}, "
                "as cell.initial_state(batch_shape) makes"
            )
        if not jnp.issubdtype(given.dtype, jnp.floating):
            raise TypeError(f"initial_state{path} has the dtype {given.dtype}: pass floating-point numbers")


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
    """Raises an error unless `key` is None or one random key."""
    if key is None:
        return
    check_array("key", key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and not (key.shape == (2,) and key.dtype == jnp.uint32):
        raise TypeError(f"key has the dtype {key.dtype}: pass a random key, such as jax.random.key(0)")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape != ():
        raise ValueError(f"key is {key.shape[0]} random keys: pass one of them")


def check_params(cell: Cell, params: Any, input_size: int) -> None:
    """Raises an error unless `params` has the entries and the shapes that `cell.init` makes for this input size."""
    expected = _param_shapes(cell, input_size)
    given = {path: jnp.shape(leaf) for path, leaf in _leaves_by_path(params).items()}
    for path in expected.keys() - given.keys():
        raise ValueError(f"params has no entry {path}, which {cell} needs: pass what its init made")
    for path in given.keys() - expected.keys():
        raise ValueError(f"params has an entry {path}, which {cell} does not know: pass what its init made")
    wider = _param_shapes(cell, input_size + 1)
    for path, shape in expected.items():
        grows = [axis for axis, size in enumerate(wider[path]) if size != shape[axis]]
        others_agree = len(given[path]) == len(shape) and all(
            given[path][axis] == shape[axis] for axis in range(len(shape)) if axis not in grows
        )
        if others_agree and given[path] != shape:
            made_for = given[path][grows[0]]
            raise ValueError(
                f"inputs has {input_size} features, but the parameters were made for {made_for}: pass [..., time, "
                f"{made_for}], or make parameters with init(key, {input_size})"
            )
        if not others_agree:
            raise ValueError(
                f"params{path} has the shape {list(given[path])}: pass {list(shape)}, as the init of {cell} makes"
            )


def check_entries(params: Any, names: Sequence[str], kind: str) -> None:
    """Raises an error unless `params` is a dict with these entries, the parameters of a layer's parts."""
    if not isinstance(params, Mapping) or set(params) != set(names):
        found = ", ".join(map(str, params)) if isinstance(params, Mapping) else describe(params)
        raise ValueError(f"params has {found or 'nothing'}: pass {kind}'s {', '.join(names)}, as its init makes")


@functools.lru_cache(maxsize=256)
def _param_shapes(cell: Cell, input_size: int) -> dict[str, tuple[int, ...]]:
    params = jax.eval_shape(functools.partial(cell.init, input_size=input_size), jax.random.key(0))
    return {path: leaf.shape for path, leaf in _leaves_by_path(params).items()}


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def check_step(cell: Cell, params: Any, state: State, inputs: jax.ShapeDtypeStruct) -> None:
    """Raises an error unless a step of `cell` gives a state like the one that it took."""
    kind = type(cell).__name__
    new_state, _ = jax.eval_shape(cell.step, params, state, inputs)
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
    """Raises an error unless `value` is a JAX or NumPy array."""
    if not isinstance(value, jax.Array | np.ndarray):
        raise TypeError(f"{name} is {describe(value)}: pass an array")


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
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array {list(value.shape)}"
    return f"a {type(value).__name__}" if value is not None else "None"
