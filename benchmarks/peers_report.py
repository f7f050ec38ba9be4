"""The table and the picture of `benchmarks.peers`."""

from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.libraries import BUILDERS, JAX_LIBRARIES

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def ratios(milliseconds: dict[str, float]) -> dict[str, float]:
    """How many times as long as flaxrnn each of the others takes."""
    return {name: figure / milliseconds["flaxrnn"] for name, figure in milliseconds.items() if name != "flaxrnn"}


def best_jax(milliseconds: dict[str, float]) -> str:
    """The fastest of the other JAX libraries."""
    return min((name for name in JAX_LIBRARIES if name in milliseconds), key=lambda name: milliseconds[name])


def markdown(report: dict[str, Any]) -> str:
    """The table: flaxrnn in milliseconds, and how many times as long each of the others takes."""
    names = [name for name in BUILDERS if name != "flaxrnn"]
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {versions}; allocator: "
        f"{machine['allocator']}. Medians of {report['turns']} turns.",
        "",
        "How many times as long as flaxrnn each takes: above 1, flaxrnn is faster. The floor is the machine's: one "
        "large matrix product of as many operations.",
        "",
        f"| shape | cell | | flaxrnn, ms | best JAX | {' | '.join(names)} |",
        "|---" * (5 + len(names)) + "|",
    ]
    for result in report["results"]:
        times = result["milliseconds"]
        others = ratios(times)
        figures = " | ".join(f"{others[name]:.2f}" if name in others else "" for name in names)
        lines.append(
            f"| {result['shape']} | {result['cell']} | {result['mode']} | {times['flaxrnn']:.3g} "
            f"| **{others[best_jax(times)]:.2f}** | {figures} |"
        )
    return "\n".join(lines) + "\n"


def picture(report: dict[str, Any], path: Path) -> None:
    """For each case a row of dots, one a library; the line at 1 is flaxrnn."""
    results = report["results"]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.25 * len(results)), layout="constrained")
    for name in (name for name in BUILDERS if name != "flaxrnn"):
        rows = [row for row, result in enumerate(results) if name in result["milliseconds"]]
        values = [ratios(results[row]["milliseconds"])[name] for row in rows]
        axes.scatter(values, rows, label=name, marker="|" if name == "floor" else "o", s=36, alpha=0.8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(results)), [f"{r['shape']}, {r['cell']}, {r['mode']}" for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("time, flaxrnn = 1 (to the right: slower than flaxrnn)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04 - 1 / len(results)), ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
