"""Where a layer has its cells, and their parameters among its own."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax

from flaxrnn.cells.base import Cell, Params
from flaxrnn.checks import describe, init_shapes
from flaxrnn.interop.arithmetic import arithmetic
from flaxrnn.interop.arrays import listed
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


class Place(NamedTuple):
    """A cell of a layer.

    Attributes:
      cell: the cell.
      number: which of several layers it is in, from the bottom; None if there is one that is no `Stack`.
      direction: "forward" or "backward" in a `Bidirectional`, else "".
      reverse: whether it reads from the end.
      path: where its parameters are among the layer's, as in `LayerCell`.
    """

    cell: Cell
    number: int | None
    direction: str
    reverse: bool
    path: tuple[str, ...]


def places(layer: Layer) -> list[Place]:
    """The cells of a layer, from the bottom, forward before backward."""
    if not isinstance(layer, Layer):
        raise TypeError(f"layer is {describe(layer)}: pass a layer, such as RNN(cell)")
    parts = [(part, *_direction(part.path)) for part in layer.cells(1)]
    numbers = {parent: number for number, parent in enumerate(dict.fromkeys(parent for _, parent, _ in parts))}
    stacked = isinstance(layer, Stack) or len(numbers) > 1
    return [
        Place(part.cell, numbers[parent] if stacked else None, direction, part.reverse, part.path)
        for part, parent, direction in parts
    ]


def _direction(path: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The path of the layer that a cell is in, and the cell's direction there."""
    return (path[:-1], path[-1]) if path[-1:] in (("forward",), ("backward",)) else (path, "")


def plain_layers(layer: Layer) -> list[RNN | Bidirectional]:
    """The layers of a stack, and of the stacks in it; of another layer itself alone."""
    if isinstance(layer, Stack):
        return [plain for part in layer.layers for plain in plain_layers(part)]
    if not isinstance(layer, RNN | Bidirectional):
        raise TypeError(
            f"layer is {describe(layer)}, and what that computes is not known here: pass an RNN, a Bidirectional or a "
            "Stack of them"
        )
    return [layer]


def is_residual(layer: Layer) -> bool:
    """Whether a layer is a stack with residual connections, or has one in it."""
    return isinstance(layer, Stack) and (layer.residual or any(map(is_residual, layer.layers)))


def check_uniform(framework: str, layer: Layer) -> None:
    """Raises an error unless a layer is what a module of several layers can be: all alike, without residuals."""
    layers = plain_layers(layer)
    if is_residual(layer):
        raise ValueError(f"{framework} has no residual connections between its layers")
    cells = {arithmetic(place.cell) for place in places(layer)}
    if len(cells) > 1 or len({type(part) for part in layers}) > 1:
        raise ValueError(
            f"{framework}'s layers are all alike, in kind, in size, in options and in directions, but these are "
            f"{layer}: export them one by one"
        )
    for part in layers:
        if part.include_initial:
            raise ValueError(f"{framework} gives one output for each input, but the layer has include_initial=True")
        if isinstance(part, Bidirectional) and part.merge != "concat":
            raise ValueError(f"{framework} concatenates the outputs of its directions, but merge is {part.merge!r}")
        if isinstance(part, RNN) and part.reverse:
            raise ValueError(f"{framework} has no layer that reads backwards alone: export RNN({part.cell})")


def split_params(layer: Layer, params: Any) -> list[Params]:
    """The parameters of each cell, in the order of `places`; an error if the layer has others."""
    paths = [place.path for place in places(layer)]
    cells = [own_params(layer, params, path) for path in paths]
    _check_no_others(layer, params, paths)
    return cells


def own_params(layer: Layer, params: Any, path: tuple[str, ...]) -> Params:
    """The parameters of the cell at `path`, out of those of the layer."""
    own: Any = params
    cell: Any = params
    for name in (*path, "kernel"):
        if not isinstance(own, Mapping) or name not in own:
            found = listed(own) if isinstance(own, Mapping) else describe(own)
            raise ValueError(
                f"params has no {'/'.join((*path, 'kernel'))}, but {found or 'nothing'}: pass what "
                f"the init of {layer} makes"
            )
        cell, own = own, own[name]
    return cell


def join_params(layer: Layer, cells: Iterator[Params]) -> dict[str, Any]:
    """The parameters of a layer from those of its cells; undoes `split_params`."""
    params: dict[str, Any] = {}
    for place, own in zip(places(layer), cells, strict=True):
        branch = params
        for name in place.path:
            branch = branch.setdefault(name, {})
        branch |= own
    return params


def check_sizes(layer: Layer, params: Any) -> None:
    """Raises an error if a layer's parameters do not fit together, or are not all that it has."""
    cells = split_params(layer, params)
    inputs = cells[0]["kernel"].shape[-2]
    for place, part, own in zip(places(layer), layer.cells(inputs), cells, strict=True):
        takes = own["kernel"].shape[-2]
        if takes != part.input_size:
            where = "/".join(place.path)
            raise ValueError(
                f"the weights of {where} are for {takes} features, but what it reads has {part.input_size}: pass a "
                "layer whose parts are in the order of the network's"
            )
    _check_no_others(layer, init_shapes(layer, inputs), [place.path for place in places(layer)])


def _check_no_others(layer: Layer, params: Any, paths: list[tuple[str, ...]]) -> None:
    """Raises an error if a layer has parameters besides those of its cells."""
    leaves = [
        tuple(getattr(key, "key", str(key)) for key in keys) for keys, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    others = ["/".join(map(str, leaf)) for leaf in leaves if not any(leaf[: len(path)] == path for path in paths)]
    if others:
        raise ValueError(
            f"{listed(others)} of params belong to no cell of {layer}: pass the layers of its cells one by one"
        )
