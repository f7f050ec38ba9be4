"""Compiles for TPUs and NVIDIA GPUs on a machine that has neither, and reads their compilers' estimates.

libtpu compiles for a TPU topology given by its name, XLA and ptxas for a GPU given by its description. Both come with
`pip install '.[accelerators]'`. The figures are compilers' estimates: cycles, kernels to launch, memory. Nothing runs.
"""

import contextlib
import functools
import importlib.util
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

TPUS = ("v5e", "v6e")
GPUS = {
    "h100": """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA H100 80GB HBM3"
""",
    "a100": """gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 167936
  threads_per_core_limit: 2048 core_count: 108 fpus_per_core: 64 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 2039000000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41
  device_memory_size: 85899345920 shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA A100-SXM4-80GB"
""",
}
TARGETS = (*TPUS, *GPUS)

NO_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Keeps libtpu from looking for the machine's TPU, and lets several processes load it."""


def missing() -> str | None:
    """What is not installed of the compilers, as half a sentence; None if they are all there."""
    modules = ("libtpu", "jax_cuda12_plugin", "nvidia.cuda_nvcc")
    absent = [name for name in modules if not _is_installed(name)]
    return f"{', '.join(absent)} not found: pip install '.[accelerators]'" if absent else None


def _is_installed(module: str) -> bool:
    parent = module.partition(".")[0]
    return importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None


def backend_of(target: str) -> str:
    """What `jax.default_backend` would be there: "tpu" or "gpu"."""
    return "gpu" if target in GPUS else "tpu"


@functools.cache
def devices(target: str) -> tuple[Any, ...]:
    """The devices of a target.

    Args:
      target: one of `TARGETS`, for one host's TPUs or one GPU; or a TPU topology such as "v5e:2x4".
    """
    if target in GPUS:
        importlib.import_module("jax_plugins.xla_cuda12")  # registers the platform with JAX
        return tuple(
            topologies.get_topology_desc(platform="cuda", target_config=GPUS[target], topology="1x1x1").devices
        )
    os.environ |= NO_TPU
    topology = target if ":" in target else f"{target}:2x2"
    return tuple(topologies.get_topology_desc(topology, platform="tpu").devices)


@contextlib.contextmanager
def tracing_for(target: str) -> Iterator[None]:
    """A context in which strategies choose as they would on the target."""
    if _TRACED_FOR[0] != backend_of(target):  # what was traced for another backend must not be used again
        jax.clear_caches()
        _TRACED_FOR[0] = backend_of(target)
    with mock.patch.object(jax, "default_backend", return_value=backend_of(target)):
        yield


_TRACED_FOR = ["cpu"]


def compile_for(target: str, function: Callable, *shapes: Any, **options: Any) -> Any:
    """Compiles a function for one device of a target.

    Args:
      target: as in `devices`.
      function: anything that `jax.jit` takes.
      shapes: its arguments, arrays or `jax.ShapeDtypeStruct`s.
      options: for `jax.jit`.
    """
    sharding = NamedSharding(Mesh(np.array(devices(target)[:1]), ("x",)), PartitionSpec())
    jitted = jax.jit(function, in_shardings=sharding, out_shardings=sharding, **options)
    return compile_jitted(target, jitted, *shapes)


def compile_jitted(target: str, jitted: Any, *shapes: Any) -> Any:
    """Compiles what `jax.jit` gave; its shardings, or those of the shapes, name the devices."""
    shapes = jax.tree.map(
        lambda leaf: leaf if _is_shape(leaf) else jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), shapes
    )
    with tracing_for(target):
        return jitted.lower(*shapes).compile(compiler_options=_options(target))


def _is_shape(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct) or not hasattr(leaf, "shape")


def _options(target: str) -> dict[str, Any] | None:
    if target not in GPUS:
        return None
    nvcc = importlib.util.find_spec("nvidia.cuda_nvcc")
    assert nvcc is not None, missing()
    assert nvcc.submodule_search_locations, missing()
    data = str(Path(next(iter(nvcc.submodule_search_locations))))
    return {"xla_gpu_autotune_level": 0, "xla_gpu_cuda_data_dir": data}  # autotuning would run kernels


def kernels_launched(compiled: Any) -> int:
    """GPU: how many kernels are launched, turns of loops included."""
    return _total(compiled.as_text(), lambda line: bool(_KERNEL.search(line)))


def expected_cycles(compiled: Any) -> int:
    """TPU: what the compiler expects its operations to take, turns of loops included; Pallas kernels count as zero."""
    return _total(compiled.as_text(), lambda line: int(found[1]) if (found := _CYCLES.search(line)) else 0)


def peak_bytes(compiled: Any) -> int:
    """The memory of one device while the program runs: arguments, results and what is between."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


_KERNEL = re.compile(
    r" (fusion|custom-call|copy|dot|reduce|scatter|dynamic-update-slice|dynamic-slice|sort|transpose)\("
)
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


def _total(text: str, measure: Callable[[str], int]) -> int:
    found = computations(text)

    def total(name: str) -> int:
        return sum(
            trips(found, line) * total(body_of(line)) if " while(" in line else measure(line) for line in found[name]
        )

    return total("ENTRY")


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation of a compiled program; the main one is also called ENTRY."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if line and not line.startswith(" ") and line.rstrip().endswith("{"):
            name = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)
            assert name is not None, line
            lines = found[name[1]] = []
            if line.startswith("ENTRY"):
                found["ENTRY"] = lines
        elif line.startswith("}"):
            lines = None
        elif lines is not None:
            lines.append(line)
    return found


def body_of(line: str) -> str:
    """The computation that a `while` repeats."""
    found = re.search(r"body=%?([\w.\-]+)", line)
    assert found is not None, line
    return found[1]


def trips(found: dict[str, list[str]], line: str) -> int:
    """How often a `while` repeats its body."""
    if known := re.search(r'known_trip_count":\{"n":"(\d+)"', line):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    assert condition is not None, line
    limits = (int(n) for text in found[condition[1]] for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", text))
    return max(limits, default=1)
