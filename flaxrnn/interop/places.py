"""Where a layer has its cells, and their parameters among its own."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flaxrnn.cells.base import Cell, Params
from flaxrnn.checks import check_entries, describe
from flaxrnn.interop.arithmetic import arithmetic
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack


class Place(NamedTuple):
    """A cell of a layer.

    Attributes:
      cell: the cell.
      number: which layer of a stack it is in, from the bottom; None if there is no stack.
      direction: "forward" or "backward" in a `Bidirectional`, else "".
      reverse: whether it reads from the end.
    """

    cell: Cell
    number: int | None
    direction: str
    reverse: bool


def places(layer: Layer) -> list[Place]:
    """The cells of a layer, from the bottom, forward before backward."""
    plain = plain_layers(layer)
    stacked = isinstance(layer, Stack)
    return [place for k, part in enumerate(plain) for place in _cells(part, k if stacked else None)]


def plain_layers(layer: Layer) -> list[RNN | Bidirectional]:
    """The layers of a stack, and of the stacks in it; of another layer itself alone."""
    if isinstance(layer, Stack):
        return [plain for part in layer.layers for plain in plain_layers(part)]
    if not isinstance(layer, RNN | Bidirectional):
        raise TypeError(f"layer is {describe(layer)}: pass an RNN, a Bidirectional or a Stack of them")
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
    """The parameters of each cell, in the order of `places`."""
    if isinstance(layer, Stack):
        check_entries(params, [f"layer_{k}" for k in range(len(layer.layers))], "Stack")
        return [own for k, part in enumerate(layer.layers) for own in split_params(part, params[f"layer_{k}"])]
    if isinstance(layer, Bidirectional):
        check_entries(params, ("forward", "backward"), "Bidirectional")
        return [params["forward"], params["backward"]]
    if not isinstance(params, dict) or "kernel" not in params:
        found = ", ".join(map(str, params)) if isinstance(params, dict) else describe(params)
        raise ValueError(f"params has {found or 'nothing'}: pass what the init of {layer} makes")
    return [params]


def join_params(layer: Layer, cells: Iterator[Params]) -> dict[str, Any]:
    """The parameters of a layer from those of its cells; undoes `split_params`."""
    if isinstance(layer, Stack):
        return {f"layer_{k}": join_params(part, cells) for k, part in enumerate(layer.layers)}
    return {"forward": next(cells), "backward": next(cells)} if isinstance(layer, Bidirectional) else next(cells)


def check_sizes(layer: Layer, params: Any) -> None:
    """Raises an error if a layer's parameters are for another number of features than the layer below it gives."""
    below: int | None = None
    cells = iter(split_params(layer, params))
    for number, part in enumerate(plain_layers(layer)):
        for _ in places(part):
            takes = next(cells)["kernel"].shape[-2]
            if below not in (None, takes):
                raise ValueError(
                    f"the weights of layer {number} are for {takes} features, but the layer below it gives {below}: "
                    "pass a layer whose parts are in the order of the network's"
                )
        below = part.output_size if isinstance(part.output_size, int) else None


def _cells(layer: RNN | Bidirectional, number: int | None) -> list[Place]:
    if isinstance(layer, RNN):
        return [Place(layer.cell, number, "", layer.reverse)]
    return [Place(layer.forward, number, "forward", False), Place(layer.backward, number, "backward", True)]
