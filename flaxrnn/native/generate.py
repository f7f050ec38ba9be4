"""From a plan to C++: a struct that describes how a cell's numbers are laid out, and a loop body for each phase.

Forward, phase 0 comes before the first product, and phase k after product k. Backward, phase k gives the gradient of
product k's result; then the transposed product gives that of what was multiplied, which phase k - 1 may use. All that
remains (gradients of the state, of the projection and of small vectors) comes in the last phase.

The numbers of a row of the batch are contiguous: `z` holds the results of products and projections, `saved` what the
backward pass needs, and `dz` the gradients of `z`.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import jax

from flaxrnn.cells.gated import GatedCell
from flaxrnn.native.plan import Plan, make_plan
from flaxrnn.native.translate import CHEAP, Untranslatable, literal


@dataclasses.dataclass(frozen=True)
class Target:
    """A node to compute, and the C++ statement that stores it; `{}` stands for its value."""

    node: int
    size: int
    store: str


@dataclasses.dataclass(frozen=True)
class Generated:
    """The C++ of a cell, and how to call it.

    Attributes:
      text: the C++.
      kernels: the names of the kernels of its products, in the order in which C++ takes them.
      small: those of small vectors.
      per_row: those of them of which each row of the batch has its own.
      widths: the sizes of features, in the order of C++'s numbers for them.
      saved: how many numbers of a row and a step are kept for the backward pass.
      output_field: which field of the state is the output; None if it is none of them.
    """

    text: str
    kernels: tuple[str, ...]
    small: tuple[str, ...]
    per_row: frozenset[str]
    widths: tuple[int, ...]
    saved: int
    output_field: int | None


class Layout:
    """Where the numbers of a row lie."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sizes = sorted({*plan.sizes.values()}, key=lambda size: (size != plan.sizes[plan.projected[0]], size))
        self.z: list[int] = []  # the leaves (or sums of leaves) in the slots of z
        self.x_slots: list[int] = []
        self.result_slots: list[int] = []
        summed = dict(plan.sums.values())
        for product in plan.products:
            self.result_slots.append(len(self.z))
            self.z += [plan.sums[block][1] if block in plan.sums else block for block in product.blocks]
        for gate, leaf in enumerate(plan.projected):
            if gate in summed:
                self.x_slots.append(self.z.index(summed[gate]))
            else:
                self.x_slots.append(len(self.z))
                self.z.append(leaf)
        self.z_sizes = [self.size_of(node) for node in self.z]
        self.dz: list[int] = [node for blocks in plan.d_blocks for node in blocks]
        self.dz_sizes = [product.size for product in plan.products for _ in product.blocks]
        self.dx_slots: list[int] = []
        for node in plan.d_projected:
            places = [
                place for place, other in enumerate(self.dz) if other == node and self.dz_sizes[place] == self.sizes[0]
            ]
            free = [place for place in places if place not in self.dx_slots]
            if not free:
                free = [len(self.dz)]
                self.dz.append(node)
                self.dz_sizes.append(self.sizes[0])
            self.dx_slots.append(free[0])
        self.saved = self._saved()
        self.saved_sizes = [self.size_of(node) for node in self.saved]

    def size_of(self, node: int) -> int:
        """How many features a node has, which all its leaves must have."""
        sizes = {self.plan.sizes[leaf] for leaf in self.plan.graph.below([node]) if leaf in self.plan.sizes}
        if len(sizes) > 1:
            raise Untranslatable(f"it mixes vectors of {' and '.join(map(str, sorted(sizes)))} features")
        return sizes.pop() if sizes else self.sizes[0]

    def backward_outputs(self) -> list[int]:
        """All that the backward pass computes."""
        plan = self.plan
        small = [
            node for small, nodes in zip(plan.small, plan.d_small, strict=True) if not small.per_row for node in nodes
        ]
        values = [product.value for product in plan.products if product.field is None]
        return [*self.dz, *plan.d_state, *small, *values]

    def _saved(self) -> list[int]:
        """What the forward pass saves: the parts of `z` that the gradient needs, or results of theirs that suffice."""
        graph, outputs = self.plan.graph, self.backward_outputs()
        kept = [node for node in self.z if node in graph.below(outputs, self.z)]
        forward = graph.below([*self.plan.news, self.plan.output], self.z)
        for node in forward:
            if graph.nodes[node].op in CHEAP or graph.nodes[node].truth or not graph.inputs(node) or node in self.z:
                continue
            needed = set(graph.below(outputs, [*kept, node])) if node in graph.below(outputs, kept) else set()
            fewer = [other for other in kept if other in needed]
            if node in needed and len(fewer) < len(kept):
                kept = [*fewer, node]
        return kept


def generate(plan: Plan) -> Generated:
    """The C++ of a cell, without the code that all cells share."""
    if len(plan.projected) > MOST_GATES:
        raise Untranslatable(f"it has more than {MOST_GATES} gates")
    layout = Layout(plan)
    forward, backward = _forward(plan, layout), _backward(plan, layout)
    values = [product for product in plan.products if product.field is None]
    numbers = {
        "WIDTHS": len(layout.sizes),
        "FIELDS": len(plan.state),
        "GATES": len(plan.projected),
        "PRODUCTS": len(plan.products),
        "SMALL": len(plan.small),
        "VALUES": len(values),
        "Z_SLOTS": len(layout.z),
        "DZ_SLOTS": len(layout.dz),
        "SAVED": len(layout.saved),
        "OUTPUT_FIELD": plan.news.index(plan.output) if plan.output in plan.news else -1,
    }
    width = layout.sizes.index
    numbers["OUTPUT_WIDTH"] = width(layout.size_of(plan.output))
    tables = {
        "FIELD_WIDTH": [width(plan.sizes[leaf]) for leaf in plan.state],
        "Z_WIDTH": [width(size) for size in layout.z_sizes],
        "DZ_WIDTH": [width(size) for size in layout.dz_sizes],
        "SAVED_WIDTH": [width(size) for size in layout.saved_sizes],
        "X_SLOT": layout.x_slots,
        "DX_SLOT": layout.dx_slots,
        "SMALL_WIDTH": [width(small.size) for small in plan.small],
        "SMALL_ROWS": [len(small.leaves) for small in plan.small],
        "PER_ROW": [int(small.per_row) for small in plan.small],
    }
    kernels = sorted({product.kernel for product in plan.products})
    products = []
    d_slot = 0
    for number, product in enumerate(plan.products):
        fields = (
            kernels.index(product.kernel),
            product.first,
            len(product.blocks),
            -1 if product.field is None else product.field,
            values.index(product) if product.field is None else -1,
            width(product.value_size),
            width(product.size),
            layout.result_slots[number],
            d_slot,
        )
        adds = ", ".join(str(int(block in plan.sums)) for block in product.blocks)
        products.append(f"{{{', '.join(map(str, fields))}, {{{adds}}}}}")
        d_slot += len(product.blocks)
    lines = ["namespace {  // else libraries of several cells would share what has the same name", "struct Cell {"]
    lines += [f"  static constexpr int {name} = {number};" for name, number in numbers.items()]
    lines += [f"  static constexpr int KERNELS = {len(kernels)};"]
    lines += [_table(name, table) for name, table in tables.items()]
    lines += [f"  static constexpr Product PRODUCT[] = {{{', '.join(products)}}};"]
    lines += [forward, backward, "};", "}  // namespace"]
    return Generated(
        text=HEAD + "\n".join(lines) + TAIL,
        kernels=tuple(kernels),
        small=tuple(small.name for small in plan.small),
        per_row=frozenset(small.name for small in plan.small if small.per_row),
        widths=tuple(layout.sizes),
        saved=sum(layout.saved_sizes),
        output_field=plan.news.index(plan.output) if plan.output in plan.news else None,
    )


def source(cell: GatedCell, input_size: int = 8) -> str:
    """The C++ of a cell: a loop body for each phase, forward and backward.

    Raises:
      Untranslatable: if a kernel cannot run the cell.

    Example:
      >>> from flaxrnn import cells
      >>> text = source(cells.Elman(8))
      >>> print(next(line.strip() for line in text.splitlines() if "tanh_" in line))
      const V v8 = tanh_(v6);
    """
    params = jax.eval_shape(functools.partial(cell.init, input_size=input_size), jax.random.key(0))
    return generate(make_plan(cell, dict(params), frozenset())).text


MOST_GATES = 16
"""As many as `Product` in loop.h has room for."""
HEAD = '#include "loop.h"\n\n'
TAIL = """

extern "C" void run_forward(const Pool* pool, const Sizes* size, const float* const* in, float* const* out) {
  forward<Cell>(*pool, *size, in, out);
}
extern "C" void run_backward(const Pool* pool, const Sizes* size, const float* const* in, float* const* out) {
  backward<Cell>(*pool, *size, in, out);
}
"""


def _table(name: str, numbers: Sequence[int]) -> str:
    return f"  static constexpr int {name}[] = {{{', '.join(map(str, [*numbers, 0]))}}};"


def _forward(plan: Plan, layout: Layout) -> str:
    """The phases of a step."""
    leaf = _leaf_loads(plan, layout) | {node: f"load(r.z + c.z[{slot}] + j, l)" for slot, node in enumerate(layout.z)}
    phase_of_slot = {}
    for number, product in enumerate(plan.products):
        for block in product.blocks:
            phase_of_slot[plan.sums[block][1] if block in plan.sums else block] = number + 1

    def phase(node: int) -> int:
        return max((phase_of_slot.get(below, 0) for below in plan.graph.below([node], leaf)), default=0)

    targets: dict[int, list[Target]] = {number: [] for number in range(len(plan.products) + 1)}
    values = [product for product in plan.products if product.field is None]
    for number, product in enumerate(plan.products):
        if product.field is None:
            store = f"store(r.v[{values.index(product)}] + j, {{}}, l);"
            targets[number].append(Target(product.value, product.value_size, store))
            if phase(product.value) > number:
                raise Untranslatable("a product needs the result of a later one")
    last = len(plan.products)
    for field, node in enumerate(plan.news):
        size = plan.sizes[plan.state[field]]
        targets[phase(node) if size == layout.size_of(node) else last].append(
            Target(node, size, f"store(r.n[{field}] + j, {{}}, l);")
        )
    targets[phase(plan.output)].append(Target(plan.output, layout.size_of(plan.output), "store(r.y + j, {}, l);"))
    for slot, node in enumerate(layout.saved):
        store = f"if constexpr (SAVE) store(r.saved + c.saved[{slot}] + j, {{}}, l);"
        targets[phase(node)].append(Target(node, layout.size_of(node), store))
    return _phases(
        "forward", "template <int PHASE, int WIDTH, bool SAVE, class L, class Row>", plan, layout, targets, leaf
    )


def _backward(plan: Plan, layout: Layout) -> str:
    """The phases of a step's gradient."""
    leaf = _leaf_loads(plan, layout) | {
        node: f"load(r.saved + c.saved[{slot}] + j, l)" for slot, node in enumerate(layout.saved)
    }
    graph = plan.graph
    for field in range(len(plan.state)):
        leaf[graph.leaf(f"dn{field}_0")] = f"load(r.d[{field}] + j, l)"
    leaf[graph.leaf("dy0_0")] = "load(r.dy + j, l)"
    values = [product for product in plan.products if product.field is None]
    for number, product in enumerate(plan.products):
        if product.field is None:
            leaf[graph.leaf(f"dv{number}_0")] = f"load(r.dv[{values.index(product)}] + j, l)"
    last = 1 if plan.bare else 0
    targets: dict[int, list[Target]] = {number: [] for number in range(len(plan.products), last - 1, -1)}
    slot = 0
    for number, blocks in enumerate(plan.d_blocks):
        for node in blocks:
            targets[number + 1].append(Target(node, layout.dz_sizes[slot], f"store(r.dz + c.dz[{slot}] + j, {{}}, l);"))
            slot += 1
    for place in range(slot, len(layout.dz)):
        targets[last].append(
            Target(layout.dz[place], layout.dz_sizes[place], f"store(r.dz + c.dz[{place}] + j, {{}}, l);")
        )
    for field, node in enumerate(plan.d_state):
        targets[last].append(Target(node, plan.sizes[plan.state[field]], f"store(r.d[{field}] + j, {{}}, l);"))
    for place, product in enumerate(values):
        targets[last].append(Target(product.value, product.value_size, f"store(r.v[{place}] + j, {{}}, l);"))
    for number, (small, nodes) in enumerate(zip(plan.small, plan.d_small, strict=True)):
        for row, node in enumerate(nodes if not small.per_row else ()):
            if not graph.is_constant(node, 0):
                total = f"r.q[{number}] + {row} * c.width[{layout.sizes.index(small.size)}] + j"
                targets[last].append(Target(node, small.size, f"store({total}, load({total}, l) + {{}}, l);"))
    return _phases("backward", "template <int PHASE, int WIDTH, class L, class Row>", plan, layout, targets, leaf)


def _leaf_loads(plan: Plan, layout: Layout) -> dict[int, str]:
    """How the state and the small vectors are read."""
    loads = {leaf: f"load(r.s[{field}] + j, l)" for field, leaf in enumerate(plan.state)}
    for number, small in enumerate(plan.small):
        for row, leaf in enumerate(small.leaves):
            loads[leaf] = f"load(r.p[{number}] + {row} * c.width[{layout.sizes.index(small.size)}] + j, l)"
    return loads


def _phases(
    name: str, template: str, plan: Plan, layout: Layout, targets: dict[int, list[Target]], leaf: dict[int, str]
) -> str:
    """A function with a branch for each phase and width."""
    lines = [f"  {template}", f"  static inline void {name}(const Layout<Cell>& c, const Row& r, int j, L l) {{"]
    for phase, all_targets in targets.items():
        for width, size in enumerate(layout.sizes):
            own = [target for target in all_targets if target.size == size]
            if own:
                lines.append(f"    if constexpr (PHASE == {phase} && WIDTH == {width}) {{")
                lines += [f"      {line}" for line in _statements(plan, layout, own, leaf)]
                lines.append("    }")
    return "\n".join([*lines, "  }"])


def _statements(plan: Plan, layout: Layout, targets: list[Target], leaf: dict[int, str]) -> Iterable[str]:
    """Computes what is wanted, each node once, and stores it after everything is read."""
    graph = plan.graph
    names: dict[int, str] = {}
    for number in graph.below([target.node for target in targets], leaf):
        node = graph.nodes[number]
        if node.op == "constant":
            names[number] = literal(node.args[0], node.truth)
            continue
        names[number] = f"v{number}"
        if number in leaf:
            if layout.size_of(number) != targets[0].size:
                raise Untranslatable(f"it mixes vectors of {layout.size_of(number)} and {targets[0].size} features")
            expression = leaf[number]
        elif node.op == "leaf":
            raise Untranslatable(f"it needs {node.args[0]} before it is computed")
        else:
            expression = graph.code(number, names)
        yield f"const {'T' if node.truth else 'V'} v{number} = {expression};"
    for target in targets:
        yield target.store.format(names[target.node])
