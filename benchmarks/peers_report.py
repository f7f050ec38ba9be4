"""The tables and the picture of `benchmarks.peers`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import plt
from benchmarks.libraries import BUILDERS, JAX_LIBRARIES

OTHERS = [name for name in BUILDERS if name != "flaxrnn"]
KINDS = {
    "train, batch 1": lambda result: result["mode"] == "train" and result["batch"] == 1,
    "train, batches": lambda result: result["mode"] == "train" and result["batch"] > 1,
    "forward, batch 1": lambda result: result["mode"] == "forward" and result["batch"] == 1,
    "forward, batches": lambda result: result["mode"] == "forward" and result["batch"] > 1,
    "single step": lambda result: result["mode"] == "step",
}


def ratios(milliseconds: dict[str, float]) -> dict[str, float]:
    """How many times as long as flaxrnn each of the others takes."""
    return {name: figure / milliseconds["flaxrnn"] for name, figure in milliseconds.items() if name != "flaxrnn"}


def best_jax(milliseconds: dict[str, float]) -> str:
    """The fastest of the other JAX libraries."""
    return min((name for name in JAX_LIBRARIES if name in milliseconds), key=lambda name: milliseconds[name])


def markdown(report: dict[str, Any]) -> str:
    """The machine, a summary, and the full table: times of the other libraries relative to flaxrnn's."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores; Python {machine['python']}, {versions}; allocator: "
        f"{machine['allocator']}. Median of {report['turns']} rounds.",
        "",
        "Time relative to flaxrnn's, lowest to highest: above 1, flaxrnn is faster.",
        "",
        *_summary(report["results"]),
        "",
        "Case by case. `floor` is one large matrix product of as many operations on the same machine.",
        "",
        *_table(report["results"]),
    ]
    return "\n".join(lines) + "\n"


def _summary(results: list[dict[str, Any]]) -> Iterable[str]:
    yield "| | best other JAX library | torch |"
    yield "|---|---|---|"
    for kind, belongs in KINDS.items():
        times = [result["milliseconds"] for result in results if belongs(result)]
        if times:
            jax = [ratios(figures)[best_jax(figures)] for figures in times]
            torch = [ratios(figures)["torch"] for figures in times if "torch" in figures]
            yield f"| {kind} | {_range(jax)} | {_range(torch)} |"


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


def _table(results: list[dict[str, Any]]) -> Iterable[str]:
    yield f"| case | flaxrnn, ms | best JAX | {' | '.join(OTHERS)} |"
    yield "|---" * (3 + len(OTHERS)) + "|"
    for result in results:
        times = result["milliseconds"]
        others = ratios(times)
        figures = " | ".join(f"{others[name]:.2f}" if name in others else "" for name in OTHERS)
        yield f"| {_label(result)} | {times['flaxrnn']:.3g} | **{others[best_jax(times)]:.2f}** | {figures} |"


def _label(result: dict[str, Any]) -> str:
    mode = "" if result["mode"] == "step" else f", {result['mode']}"
    return f"{result['shape']}, {result['cell']}{mode}"


def picture(report: dict[str, Any], path: Path) -> None:
    """A row of dots for each case, one dot per library; the line at 1 is flaxrnn."""
    results = report["results"]
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.25 * len(results)), layout="constrained")
    for name in OTHERS:
        rows = [row for row, result in enumerate(results) if name in result["milliseconds"]]
        values = [ratios(results[row]["milliseconds"])[name] for row in rows]
        axes.scatter(values, rows, label=name, marker="|" if name == "floor" else "o", s=36, alpha=0.8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(results)), [_label(result) for result in results])
    axes.invert_yaxis()
    axes.set_xlabel("time, flaxrnn = 1 (to the right: slower than flaxrnn)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.04 - 1 / len(results)), ncols=4, frameon=False)
    figures.save(figure, path, report)
