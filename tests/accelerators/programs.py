"""What a compiled program consists of."""

import re

from benchmarks.compilers import body_of, computations

COLLECTIVES = re.compile(r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(")


def collectives(compiled):
    """The operations between devices: those outside loops, and those inside."""
    found = computations(compiled.as_text())
    outside, inside = [], []

    def walk(name, kinds):
        for line in found[name]:
            kinds.extend(COLLECTIVES.findall(line))
            if " while(" in line:
                walk(body_of(line), inside)
            for called in re.findall(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line):
                walk(called, kinds)

    walk("ENTRY", outside)
    return outside, inside
