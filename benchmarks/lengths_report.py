"""The table and the picture of `benchmarks.lengths`."""

import itertools
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import plt

STRATEGIES = ("plain", "fused", "checkpointed")


def markdown(report: dict[str, Any]) -> str:
    """The sequences and the machine, then the table: time per step and peak memory for each length and strategy."""
    options, machine = report["options"], report["machine"]
    lines = [
        f"Cell `{options['cell']}` with {options['hidden_size']} features, on {options['batch']} sequences of "
        f"{options['input_size']} features. {machine['processor']}, {machine['cores']} cores; Python "
        f"{machine['python']}, jax {machine['versions']['jax']}; allocator: {machine['allocator']}. Median of "
        f"{options['turns']} rounds.",
        "",
        "| length | " + " | ".join(f"{name}, µs per step | MB" for name in STRATEGIES) + " |",
        "|---" * (1 + 2 * len(STRATEGIES)) + "|",
    ]
    for length, group in itertools.groupby(report["results"], key=lambda result: result["length"]):
        pairs = ((_microseconds(result), result["megabytes"]) for result in group)
        cells = " | ".join(f"{figure:.0f}" for pair in pairs for figure in pair)
        lines.append(f"| {length:,} | {cells} |")
    return "\n".join(lines) + "\n"


def picture(report: dict[str, Any], path: Path) -> None:
    """Left, time per step; right, peak memory; one line per strategy."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for strategy in STRATEGIES:
        mine = [result for result in report["results"] if result["strategy"] == strategy]
        lengths = [result["length"] for result in mine]
        left.plot(lengths, [_microseconds(result) for result in mine], marker="o", label=strategy)
        right.plot(lengths, [result["megabytes"] for result in mine], marker="o", label=strategy)
    left.set(xscale="log", xlabel="sequence length, steps", ylabel="µs per training step and time step", ylim=(0, None))
    right.set(xscale="log", yscale="log", xlabel="sequence length, steps", ylabel="peak memory, MB")
    left.legend(frameon=False)
    figures.save(figure, path, report)


def _microseconds(result: dict[str, Any]) -> float:
    return result["milliseconds"] / result["length"] * 1000
