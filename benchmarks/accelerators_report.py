"""The table and the picture of `benchmarks.accelerators`."""

from pathlib import Path
from typing import Any

from benchmarks import figures
from benchmarks.figures import plt

TPU, GPU = "v5e", "h100"


def markdown(report: dict[str, Any]) -> str:
    """The versions, then a row for each shape and cell."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"Figures of compilers, not measurements: nothing has run. {versions}. `auto` is set in bold.",
        "",
        "| shape, cell | TPU v5e, million cycles: plain | fused | pallas | Flax | auto / Flax "
        "| H100, kernels launched: plain | fused | Flax | auto / Flax | MB on TPU: auto | Flax |",
        "|---" * 12 + "|",
    ]
    for case in cases(report):
        tpu, gpu = (found(report, target, case) for target in (TPU, GPU))
        row = [_million(report, case, tpu, by) for by in ("plain", "fused", "pallas", "flax")]
        row += [_ratio(report, TPU, case)]
        row += [
            _bold(report, GPU, case, by, f"{gpu[by]['figure']:,}") if by in gpu else "" for by in ("plain", "fused")
        ]
        row += [f"{gpu['flax']['figure']:,}" if gpu else "", _ratio(report, GPU, case)]
        row += [f"{tpu[by]['bytes'] / 1e6:.0f}" if tpu else "" for by in (_auto(report, TPU, case), "flax")]
        lines.append(f"| {case} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def cases(report: dict[str, Any]) -> list[str]:
    """Each shape and cell, such as "text, gru"."""
    return list(dict.fromkeys(f"{result['shape']}, {result['cell']}" for result in report["results"]))


def found(report: dict[str, Any], target: str, case: str) -> dict[str, dict[str, int]]:
    """What was found for one target and case, by strategy."""
    return {
        result["by"]: result
        for result in report["results"]
        if result["target"] == target and f"{result['shape']}, {result['cell']}" == case
    }


def ratio(report: dict[str, Any], target: str, case: str) -> float | None:
    """What `auto` takes over what Flax's best module takes; None if the target was left out."""
    here = found(report, target, case)
    return here[_auto(report, target, case)]["figure"] / here["flax"]["figure"] if here else None


def picture(report: dict[str, Any], path: Path) -> None:
    """A pair of bars for each shape and cell: `auto` relative to Flax's best module."""
    names = cases(report)
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    for shift, (target, label) in zip(
        (-0.2, 0.2), {TPU: "cycles, TPU v5e", GPU: "launches, H100"}.items(), strict=True
    ):
        bars = [ratio(report, target, case) or 0.0 for case in names]
        axes.bar([place + shift for place in range(len(names))], bars, width=0.4, label=label)
    axes.axhline(1, color="gray", linestyle="--")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set(ylabel="flaxrnn / Flax's best module", title="What compilers expect of a training step (not measured)")
    axes.legend(frameon=False)
    figures.save(figure, path, report)


def _auto(report: dict[str, Any], target: str, case: str) -> str:
    return report["auto"].get(target, {}).get(case, "")


def _bold(report: dict[str, Any], target: str, case: str, by: str, text: str) -> str:
    return f"**{text}**" if _auto(report, target, case) == by else text


def _million(report: dict[str, Any], case: str, tpu: dict[str, dict[str, int]], by: str) -> str:
    return _bold(report, TPU, case, by, f"{tpu[by]['figure'] / 1e6:.3f}") if by in tpu else ""


def _ratio(report: dict[str, Any], target: str, case: str) -> str:
    value = ratio(report, target, case)
    return "" if value is None else f"{value:.2f}"
