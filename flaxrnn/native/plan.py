"""What a cell computes between its matrix products, forward and backward, as one graph.

A cell's `recur` is a chain: arithmetic, a product, arithmetic, a product, ..., arithmetic. Its results and those of its
`jax.vjp` are the outputs of the graph. Its leaves, one for each vector of features, are

    s0 s1 ..   the fields of the state                 dn0 dn1 ..  the gradients of the new state's fields
    x0 x1 ..   the projection, a leaf for each gate    dy          the gradient of the output
    r0 r1 ..   the blocks of the products              dv0 dv1 ..  the gradients of what the products multiply
    p0 p1 ..   the rows of the cell's small vectors
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from flaxrnn.cells.gated import GatedCell
from flaxrnn.cells.products import add_blocks
from flaxrnn.native.translate import Graph, Translator, Untranslatable, leaves
from flaxrnn.strategies.fused_products import RecordedProducts


@dataclasses.dataclass(frozen=True)
class Multiplied:
    """A product of a step.

    Attributes:
      kernel: the name of the parameter.
      first: the first of the kernel's blocks of columns.
      blocks: the leaves of its result.
      value: the node that is multiplied.
      field: which field of the state that is; None for a value that must be computed.
      value_size, size: how many features the value and a block have.
    """

    kernel: str
    first: int
    blocks: tuple[int, ...]
    value: int
    field: int | None
    value_size: int
    size: int


@dataclasses.dataclass(frozen=True)
class Small:
    """A vector among the cell's parameters, or a few of them as the rows of one array.

    Attributes:
      name: its name in the parameters.
      leaves: its rows.
      size: how many features it has.
      per_row: whether each member of the batch has its own, as with a dropout mask.
    """

    name: str
    leaves: tuple[int, ...]
    size: int
    per_row: bool


@dataclasses.dataclass
class Plan:
    """Everything that the C++ is generated from.

    Attributes:
      graph: the nodes, which all others are numbers of.
      sizes: how many features each leaf has.
      state, projected, small, products: the leaves, by where they come from.
      news, output: the new state and the output.
      d_blocks: the gradient of each block of each product.
      d_state, d_projected, d_small: those of the leaves.
      sums: for each block that is used only in its sum with one gate's projection: that gate, and the sum.
    """

    graph: Graph
    sizes: dict[int, int]
    state: list[int]
    projected: list[int]
    small: list[Small]
    products: list[Multiplied]
    news: list[int]
    output: int
    d_blocks: list[list[int]]
    d_state: list[int]
    d_projected: list[int]
    d_small: list[list[int]]
    sums: dict[int, tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def bare(self) -> bool:
        """Whether the first product multiplies a field of the state as it is, so that there is no phase before it."""
        return self.products[0].field is not None


@dataclasses.dataclass(frozen=True)
class GivenProducts(RecordedProducts):
    """Products whose results are given, in the order in which they are asked for."""

    given: tuple = ()

    def result(self, name: str, values: jax.Array, gates: slice | None, add: tuple[jax.Array, ...] | None) -> Any:
        known = self.given[len(self.made)]
        blocks = add_blocks(known if isinstance(known, tuple) else (known,), add)
        return blocks[0] if gates is None else blocks


def make_plan(cell: GatedCell, params: Any, per_row: frozenset[str]) -> Plan:
    """The plan of a cell, float32 throughout.

    Args:
      cell: the cell.
      params: the shapes of its parameters, as for one sequence without batch axes.
      per_row: the names of those of which each member of the batch has its own.

    Raises:
      Untranslatable: if the cell does something that a kernel cannot.
    """
    state = jax.eval_shape(cell.initial_state)
    block = jax.ShapeDtypeStruct((cell.hidden_size,), np.float32)
    projected = tuple([block] * len(cell.gates))
    made = _made(cell, params, state, projected)
    apart = {one.name for one in made} | {"kernel", "bias"}
    kernels, small = ({name: params[name] for name in params if (name in apart) == kept} for kept in (True, False))

    def step(kernels: Any, state: Any, projected: Any, results: Any, small: Any) -> Any:
        product = GivenProducts(cell, kernels | small, given=results)
        after, output = cell.recur(product.params, state, projected, product)
        return [one.values for one in product.made], jax.tree.leaves(after), output

    arguments = state, projected, tuple(one.result for one in made), small
    cotangents = jax.eval_shape(step, kernels, *arguments)
    translator = Translator(Graph(), {leaf.shape[-1] for leaf in jax.tree.leaves((state, block, cotangents))})
    given = [_leaves(translator, prefix, tree) for prefix, tree in zip("sxrp", arguments, strict=True)]
    known = [array for arrays in given for array in arrays]
    unknown = [np.empty(leaf.shape, object) for leaf in jax.tree.leaves(kernels)]  # a step must not look at them
    d_given = [
        array
        for prefix, tree in zip(("dv", "dn", "dy"), cotangents, strict=True)
        for array in _leaves(translator, prefix, tree)
    ]
    values, news, output = _split(
        _run(translator, step, (kernels, *arguments), unknown + known), map(jax.tree.leaves, cotangents)
    )

    def pull(kernels: Any, *everything: Any) -> Any:
        return jax.vjp(functools.partial(step, kernels), *everything[:-1])[1](everything[-1])

    gradients = _run(translator, pull, (kernels, *arguments, cotangents), unknown + known + d_given)
    d_state, d_projected, d_results, d_small = _split(gradients, given)
    state_leaves, projected_leaves, result_leaves = (list(map(_item, arrays)) for arrays in given[:3])
    blocks = _split(result_leaves, [jax.tree.leaves(one.result) for one in made])
    plan = Plan(
        graph=translator.graph,
        sizes={
            node: (leaf.shape or (0,))[-1]
            for arrays, leaf in zip(known + d_given, jax.tree.leaves((arguments, cotangents)), strict=True)
            for node in arrays.reshape(-1)
        },
        state=state_leaves,
        projected=projected_leaves,
        small=[
            Small(name, tuple(array.reshape(-1)), (small[name].shape or (0,))[-1], name in per_row)
            for name, array in zip(sorted(small), given[3], strict=True)
        ],
        products=[
            Multiplied(
                kernel=one.name,
                first=one.first or 0,
                blocks=tuple(own),
                value=_item(value),
                field=state_leaves.index(_item(value)) if _item(value) in state_leaves else None,
                value_size=one.values.shape[-1],
                size=jax.tree.leaves(one.result)[0].shape[-1],
            )
            for one, own, value in zip(made, blocks, values, strict=True)
        ],
        news=list(map(_item, news)),
        output=_item(output[0]),
        d_blocks=_split(list(map(_item, d_results)), blocks),
        d_state=list(map(_item, d_state)),
        d_projected=list(map(_item, d_projected)),
        d_small=[list(array.reshape(-1)) for array in d_small],
    )
    _drop_unused(plan, translator.sizes)
    if plan.bare:  # its gradient goes to the field unchanged, and is added by the product itself
        plan.d_state = plan.graph.without(plan.d_state, {"dv0_0"})
    plan.sums = _sums(plan)
    return plan


def _made(cell: GatedCell, params: Any, state: Any, projected: Any) -> list:
    """The shapes of a step's products."""
    names: list[tuple[str, int | None]] = []

    def record(params: Any, state: Any, projected: Any) -> Any:
        product = RecordedProducts(cell, params)
        cell.recur(params, state, projected, product)
        names[:] = [(one.name, one.first) for one in product.made]
        return [(one.values, one.result) for one in product.made]

    shapes = jax.eval_shape(record, params, state, projected)
    if not shapes:
        raise Untranslatable(f"{type(cell).__name__}.recur makes no matrix product through `product`")
    return [_Made(name, first, values, result) for (name, first), (values, result) in zip(names, shapes, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Made:
    """A product: its kernel's name, its first gate, and the shapes of what is multiplied and of the result."""

    name: str
    first: int | None
    values: Any
    result: Any


def _leaves(translator: Translator, prefix: str, tree: Any) -> list[np.ndarray]:
    """An array of leaves for each array of a tree."""
    return [
        leaves(translator.graph, f"{prefix}{number}", translator.shape(leaf.shape))
        for number, leaf in enumerate(jax.tree.leaves(tree))
    ]


def _run(translator: Translator, function: Any, arguments: Any, given: list[np.ndarray]) -> list[np.ndarray]:
    closed = jax.make_jaxpr(function)(*arguments)
    return translator.run(closed.jaxpr, closed.consts, given)


def _split(flat: Any, like: Any) -> list[list]:
    """A list in parts that are as long as those of `like`."""
    rest = iter(flat)
    return [[next(rest) for _ in part] for part in like]


def _item(array: Any) -> int:
    return array.reshape(-1)[0]


def _drop_unused(plan: Plan, sizes: set[int]) -> None:
    """Leaves out the parameters that a step does not use, unless they are vectors that it may look at."""
    outputs = [*plan.news, plan.output, *(one.value for one in plan.products)]
    used = set(plan.graph.below(outputs))
    kept = [number for number, small in enumerate(plan.small) if used & set(small.leaves) or small.size in sizes]
    for number in kept:
        if plan.small[number].size not in sizes:
            raise Untranslatable(f"params[{plan.small[number].name!r}] has no feature axis")
    plan.small = [plan.small[number] for number in kept]
    plan.d_small = [plan.d_small[number] for number in kept]


def _sums(plan: Plan) -> dict[int, tuple[int, int]]:
    """For each block that is used only in its sum with a gate's projection, that gate and the sum."""
    outputs = {*plan.news, plan.output, *plan.d_state, *plan.d_projected, *(one.value for one in plan.products)}
    outputs |= {node for nodes in (*plan.d_blocks, *plan.d_small) for node in nodes}
    users: dict[int, set[int]] = {}
    for number in plan.graph.below(sorted(outputs)):
        for arg in plan.graph.inputs(number):
            users.setdefault(arg, set()).add(number)
    sums = {}
    for block in (block for one in plan.products for block in one.blocks):
        for gate, projection in enumerate(plan.projected):
            both = users.get(block, set()) | users.get(projection, set())
            total = next(iter(both)) if len(both) == 1 else None
            if total is None or plan.graph.nodes[total].op != "add" or {block, projection} & outputs:
                continue
            if set(plan.graph.inputs(total)) == {block, projection}:
                sums[block] = gate, total
    return sums
