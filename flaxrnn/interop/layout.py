"""How a framework lays out the weights of recurrent cells, and what all frameworks have in common."""

import abc
import dataclasses
import re
from typing import Any, ClassVar, NamedTuple

import numpy as np

from flaxrnn import checks
from flaxrnn.cells import GRU, LSTM, Elman, GatedCell
from flaxrnn.cells.base import Cell, Params
from flaxrnn.interop.arithmetic import Cells, check_expressible
from flaxrnn.interop.arrays import Arrays, DTypeError, below, listed, to_jax
from flaxrnn.interop.blocks import add_zero_biases, drop_zero_biases, with_biases
from flaxrnn.interop.places import Place, check_sizes, join_params, places, split_params
from flaxrnn.layers import RNN, Bidirectional, Layer, Stack

GATES: dict[int, type[GatedCell]] = {4: LSTM, 3: GRU, 1: Elman}
"""The cells by the number of their gates."""


class Site(NamedTuple):
    """Where the weights have a cell.

    Attributes:
      path: what the names of its arrays have in common.
      arrays: its arrays, by the rest of their names.
    """

    path: str
    arrays: Arrays

    def matrix(self, leaf: str) -> tuple[int, int]:
        """The numbers of rows and columns of an array."""
        shape = self.arrays[leaf].shape
        if len(shape) != 2:
            raise ValueError(f"{leaf} of {self.path or 'the cell'} has the shape {list(shape)}: pass a matrix")
        return shape

    def size(self, leaf: str) -> int:
        """How long a vector is."""
        shape = self.arrays[leaf].shape
        if len(shape) != 1:
            raise ValueError(f"{leaf} of {self.path or 'the cell'} has the shape {list(shape)}: pass a vector")
        return int(shape[0])


class Layout(abc.ABC):
    """One framework's layout.

    A framework's file says how the arrays of one cell with biases are named and laid out: `write` and `read`. From
    these two follow the layout without biases, which entries and shapes a layer needs, and what is missing or wrong in
    the weights that are given.
    """

    framework: ClassVar[str]
    """Its name, for messages."""
    leaves: ClassVar[tuple[str, ...]]
    """How the names of a cell's arrays end."""
    biases: ClassVar[tuple[str, ...]] = ()
    """Which of them a cell with `use_bias=False` lacks; none if every cell of the framework has biases."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Which of them may be missing, and are then zero."""
    cells: ClassVar[Cells]
    """The cells that it has."""
    reasons: ClassVar[dict[str, str]] = {}
    """Why an option has no other value."""

    @abc.abstractmethod
    def write(self, cell: Cell, params: Arrays) -> Arrays:
        """The framework's arrays of a cell, by their names within it."""

    @abc.abstractmethod
    def read(self, cell: Cell, arrays: Arrays) -> Arrays:
        """The parameters of a cell; undoes `write`."""

    @abc.abstractmethod
    def cell_for(self, site: Site) -> Cell | None:
        """The cell that some arrays are of; None if they are of none."""

    @abc.abstractmethod
    def path(self, place: Place, before: list[Place]) -> str:
        """What the framework itself would call a cell, given those that come before it."""

    def join(self, path: str, leaf: str) -> str:
        """The name of an array."""
        return f"{path}/{leaf}" if path else leaf

    def split(self, name: str) -> tuple[str, str] | None:
        """The path and the leaf that a name is made of; None if it is no cell's."""
        for leaf in sorted(self.leaves, key=len, reverse=True):
            if name == leaf or name.endswith(f"/{leaf}"):
                return name[: -len(leaf)].rstrip("/"), leaf
        return None

    def for_site(self, site: Site) -> "Layout":
        """The layout of one cell, for a framework that has several."""
        del site
        return self

    def check_layer(self, layer: Layer) -> None:
        """Raises an error if the framework has the cells, but not such a layer of them."""
        del layer

    def import_weights(self, layer: Layer, weights: Any, prefix: str = "") -> dict[str, Any]:
        """The parameters of `layer` out of a framework's weights."""
        wanted = self.places(layer)
        found = self.sites(weights, prefix)
        if len(found) != len(wanted):
            raise ValueError(
                f"the layer's cells are {len(wanted)} ({listed(str(place.cell) for place in wanted)}), but those in "
                f"the weights are {len(found)} ({listed(site.path or 'one without a path' for site in found)})"
            )
        groups: dict[Any, list[Site]] = {}
        for site in found:
            groups.setdefault(self._group(site), []).append(site)
        left = {group: in_order(sites) for group, sites in groups.items()}
        params = join_params(layer, iter([self.cell_params(place.cell, self._take(place, left)) for place in wanted]))
        check_sizes(layer, params)
        return params

    def export_weights(self, layer: Layer, params: Any) -> Arrays:
        """A framework's weights, by name, out of the parameters of `layer`."""
        before: list[Place] = []
        arrays: Arrays = {}
        for place, own in zip(self.places(layer), split_params(layer, params), strict=True):
            checks.check_params(place.cell, own, own["kernel"].shape[-2])
            path = self.path(place, before)
            written = self._write(place.cell, {name: np.asarray(array) for name, array in own.items()})
            arrays |= {self.join(path, leaf): np.array(array, order="C") for leaf, array in written.items()}
            before.append(place)
        return arrays

    def layer_for(self, weights: Any, prefix: str = "") -> Layer:
        """The layer that some weights are of."""
        found = in_order(self.sites(weights, prefix))
        layers: list[Layer] = []
        while found:
            site = found.pop(0)
            parent, _ = direction(site.path)
            if found and direction(found[0].path) == (parent, "backward"):
                layers.append(Bidirectional(self._cell(site), self._cell(found.pop(0))))
            else:
                layers.append(RNN(self._cell(site)))
        return layers[0] if len(layers) == 1 else Stack(layers)

    def places(self, layer: Layer) -> list[Place]:
        """The cells of a layer, if the framework has such ones."""
        found = places(layer)
        for place in found:
            check_expressible(self.framework, self.cells, self.reasons, place.cell)
        self.check_layer(layer)
        return found

    def sites(self, weights: Any, prefix: str = "") -> list[Site]:
        """The cells in some weights, in the order of these."""
        groups: dict[str, Arrays] = {}
        unknown = []
        for name, array in below(weights, prefix).items():
            parts = self.split(name)
            if parts is None:
                unknown.append(name)
            else:
                groups.setdefault(parts[0], {})[parts[1]] = array
        found = [Site(path, arrays) for path, arrays in groups.items()]
        for site in found:
            if self.cell_for(site) is None:
                unknown += [self.join(site.path, leaf) for leaf in site.arrays]
        if unknown:
            raise ValueError(
                f"{listed(unknown)}: no recurrent cell of {self.framework} has these alone; its cells have "
                f"{', '.join(self.leaves)}. Leave out what belongs to other layers, by prefix='...' for instance"
            )
        self.check_sites(found)
        return found

    def check_sites(self, found: list[Site]) -> None:
        """Raises an error if the framework has such cells, but not these together."""
        del found

    def cell_params(self, cell: Cell, site: Site) -> Params:
        """The parameters of one cell out of its arrays."""
        layout = self.for_site(site)
        params = layout.read(with_biases(cell), layout._complete(cell, site))
        return {name: to_jax(name, array) for name, array in drop_zero_biases(cell, params).items()}

    def _cell(self, site: Site) -> Cell:
        cell = self.cell_for(site)
        assert isinstance(cell, GatedCell), "sites gives no others"
        without = self.biases and not site.arrays.keys() & set(self.biases)
        return dataclasses.replace(cell, use_bias=False) if without else cell

    def kind(self, rows: int, hidden_size: int) -> type[GatedCell] | None:
        """Which of the framework's cells has so many rows of gates; None if none has."""
        fitting = (kind for gates, kind in GATES.items() if hidden_size and rows == gates * hidden_size)
        return next((kind for kind in fitting if kind in self.cells), None)

    def _group(self, site: Site) -> tuple[type[Cell], str]:
        """The kind of a cell and its direction, if the weights tell that."""
        return type(self._cell(site)), direction(site.path)[1]

    def _take(self, place: Place, left: dict[tuple[type[Cell], str], list[Site]]) -> Site:
        """Takes the next cell of that kind and direction, or of that kind, or any, so that its fault can be told."""
        kind = type(place.cell)
        for group in ((kind, place.direction), (kind, ""), *left):
            if left.get(group):
                return left[group].pop(0)
        raise AssertionError("there are as many cells as places")

    def _complete(self, cell: Cell, site: Site) -> Arrays:
        """The arrays of a cell with biases, zeros where they are missing; an error if others are, or do not fit."""
        given = site.arrays
        if len({array.dtype for array in given.values()}) > 1:
            dtypes = listed(f"{self.join(site.path, leaf)} in {array.dtype}" for leaf, array in given.items())
            raise DTypeError(f"the weights of one cell are in several dtypes: {dtypes}: cast them to one")
        input_size = self._input_size(cell, given)
        expected, full = self._shapes(cell, input_size), self._shapes(with_biases(cell), input_size)
        absent = [leaf for leaves in (self.biases, self.optional) if not given.keys() & set(leaves) for leaf in leaves]
        for leaf in sorted(expected.keys() - given.keys() - set(absent)):
            names = listed(self.join(site.path, other) for other in given)
            raise ValueError(f"there is no {self.join(site.path, leaf)}, which {cell} needs, but {names}")
        for leaf in sorted(given.keys() - expected.keys()):
            raise ValueError(
                f"there is an entry {self.join(site.path, leaf)}, which {cell} has not: it has {listed(expected)}"
            )
        for leaf, array in given.items():
            if array.shape != expected[leaf]:
                raise ValueError(
                    f"{self.join(site.path, leaf)} has the shape {list(array.shape)}, but {cell} takes "
                    f"{list(expected[leaf])}: pass the layer that these weights are of, as layer_for makes it"
                )
        dtype = next(iter(given.values())).dtype
        return {leaf: given[leaf] if leaf in given else np.zeros(shape, dtype) for leaf, shape in full.items()}

    def _shapes(self, cell: Cell, input_size: int) -> dict[str, tuple[int, ...]]:
        zeros = {name: np.zeros(like.shape, np.float32) for name, like in checks.init_shapes(cell, input_size).items()}
        return {leaf: array.shape for leaf, array in self._write(cell, zeros).items()}

    def _write(self, cell: Cell, params: Arrays) -> Arrays:
        """`write`, for cells without biases too."""
        full = with_biases(cell)
        arrays = self.write(full, add_zero_biases(cell, params))
        return {leaf: array for leaf, array in arrays.items() if full == cell or leaf not in self.biases}

    def _input_size(self, cell: Cell, given: Arrays) -> int:
        """How many features the inputs have, from the one axis whose size changes with that number."""
        one, two = self._shapes(cell, 1), self._shapes(cell, 2)
        for leaf, shape in one.items():
            for axis, (first, second) in enumerate(zip(shape, two[leaf], strict=True)):
                if first != second and leaf in given and given[leaf].ndim == len(shape):
                    return max(1, given[leaf].shape[axis] - first + 1)
        return 1


def in_order(found: list[Site]) -> list[Site]:
    """Cells in the order of the layers that they are in: that of the numbers in their paths, if these tell it.

    Else it is the order in which they were given, unless that is the alphabetical one, which files and JAX's trees have
    whatever the order of the layers.
    """
    paths = [site.path for site in found]
    if len({re.sub(r"_?\d+", "", direction(path)[0]) for path in paths}) <= 1:
        return sorted(found, key=lambda site: natural(site.path))
    if paths == sorted(paths) and len({direction(path)[0] for path in paths}) > 1:
        raise ValueError(
            f"the order of the layers is not to be seen from the names {listed(paths)}: pass the weights under names "
            "with numbers in them, from the bottom, such as '0/...' and '1/...'"
        )
    return found


def direction(path: str) -> tuple[str, str]:
    """The part of a path that two directions have in common, and "forward", "backward" or "" for neither."""
    match = re.match(r"(.*?)(?:^|(?<=/))(forward|backward|fw|bw)(?=[_/]|$)", path)
    if match:
        return match[1], {"fw": "forward", "bw": "backward"}.get(match[2], match[2])
    return (path.removesuffix("_reverse"), "backward") if path.endswith("_reverse") else (path, "")


def natural(path: str) -> list[list[Any]]:
    """A key to sort paths by: numbers by their value, forward before backward."""

    def part(name: str) -> list[Any]:
        name = re.sub(r"^(backward|bw)", r"~\1", name)
        return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", name)]

    return [part(name) for name in path.split("/")]
