"""Weights from one framework to another: `python -m flaxrnn.interop convert --from torch a --to keras b`."""

import dataclasses
import inspect
import pathlib
import sys
from typing import Annotated, Any, Literal

import jax
import numpy as np
import rich.console
import rich.table
import tyro

from flaxrnn import interop
from flaxrnn.interop.arrays import DTypeError
from flaxrnn.interop.files import write_whole
from flaxrnn.interop.places import places, split_params
from flaxrnn.layers import Layer

Framework = Literal["torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox", "cudnn", "onnx"]
Source = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
Target = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
From = Annotated[Framework, tyro.conf.arg(name="from")]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to read the source, where its framework does not say it.

    Attributes:
      prefix: what the names of the network begin with in the file; others are left out.
      forget_bias: tf1: what the LSTM cells add to the forget gate at run time, by default 1.
      hidden_size: cudnn: the size of the LSTM.
      num_layers: cudnn: the number of its layers, by default 1.
      bidirectional: cudnn: whether it reads from both ends.
    """

    prefix: str = ""
    forget_bias: float | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    bidirectional: bool = False

    def check(self, framework: str) -> None:
        """Raises an error if there is an option that means nothing for a framework."""
        for name, owners in OWNERS.items():
            if getattr(self, name, None) not in (None, "", False) and framework not in owners:
                raise ValueError(f"--{name.replace('_', '-')} is for --from {' or '.join(owners)}, not {framework}")


OWNERS = {
    "prefix": ("torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox"),
    "forget_bias": ("tf1",),
    "hidden_size": ("cudnn",),
    "num_layers": ("cudnn",),
    "bidirectional": ("cudnn",),
}


@dataclasses.dataclass(frozen=True)
class Writing:
    """How to write the target.

    Attributes:
      target_forget_bias: tf1: what the LSTM cells will add to the forget gate at run time, by default 1.
      optimized: nnx: whether the LSTM cells are `OptimizedLSTMCell`.
      overwrite: whether to replace a file that is there.
    """

    target_forget_bias: float | None = None
    optimized: bool = False
    overwrite: bool = False


AS_READ, AS_WRITTEN = Reading(), Writing()
"""How files are read and written by default."""


def show(source: Source, from_: From, reading: tyro.conf.OmitArgPrefixes[Reading] = AS_READ) -> None:
    """Says what network is in a file.

    Args:
      source: a safetensors file, or for ONNX a model.
      from_: the framework whose weights they are.
      reading: how to read them.
    """
    _print(source, from_, *_read(source, from_, reading))


def convert(
    source: Source,
    target: Target,
    from_: From,
    to: Framework,
    reading: tyro.conf.OmitArgPrefixes[Reading] = AS_READ,
    writing: tyro.conf.OmitArgPrefixes[Writing] = AS_WRITTEN,
) -> None:
    """Brings weights from one framework's layout into another's.

    Args:
      source: a safetensors file, or for ONNX a model.
      target: the file to write, a safetensors file, or for ONNX (by its ending, `.onnx`) a model.
      from_: the framework whose weights they are.
      to: the framework to write them for.
      reading: how to read them.
      writing: how to write them.
    """
    if target.exists() and not writing.overwrite:
        raise FileExistsError(f"{target} is there already: pass another name, or --overwrite")
    if target.suffix not in (".safetensors", ".onnx") or (target.suffix == ".onnx" and to != "onnx"):
        raise ValueError(f"{target}: pass a name that ends in .safetensors, or for a whole ONNX model in .onnx")
    for name, given, owner in (
        ("target-forget-bias", writing.target_forget_bias, "tf1"),
        ("optimized", writing.optimized, "nnx"),
    ):
        if given and to != owner:
            raise ValueError(f"--{name} is for --to {owner}, not {to}")
    layer, params = _read(source, from_, reading)
    _print(source, from_, layer, params)
    module = getattr(interop, to)
    if to == "onnx" and target.suffix == ".onnx":
        write_whole(target, module.export_model(layer, params).SerializeToString())
    else:
        options = {"forget_bias": writing.target_forget_bias, "optimized": writing.optimized or None}
        weights = module.export_weights(layer, params, **_taken(module.export_weights, options))
        interop.save(target, {"weights": weights} if to == "cudnn" else weights)
    print(f"written for {to}: {target}")


def _read(source: pathlib.Path, framework: Framework, reading: Reading) -> tuple[Layer, Any]:
    """The layer in a file, and its parameters."""
    reading.check(framework)
    weights: Any = _load_onnx(source) if (framework, source.suffix) == ("onnx", ".onnx") else interop.load(source)
    try:
        return _network(weights, framework, reading)
    except (DTypeError, ValueError) as error:
        raise ValueError(f"{source}: {error}") from error


def _network(weights: Any, framework: Framework, reading: Reading) -> tuple[Layer, Any]:
    """The layer that weights are of, and its parameters."""
    module = getattr(interop, framework)
    if framework != "cudnn":
        layer = module.layer_for(weights, reading.prefix)
        options = {"prefix": reading.prefix, "forget_bias": reading.forget_bias}
        return layer, module.import_weights(layer, weights, **_taken(module.import_weights, options))
    if reading.hidden_size is None:
        raise ValueError(
            "cuDNN's vector does not tell its sizes: pass --hidden-size, and --num-layers, --bidirectional"
        )
    layer = module.layer_for(
        hidden_size=reading.hidden_size,
        num_layers=reading.num_layers or 1,
        bidirectional=reading.bidirectional,
    )
    if list(weights) != ["weights"]:
        raise ValueError(f"there are {', '.join(weights)}: for cuDNN there is to be one vector, called weights")
    return layer, module.import_weights(layer, weights["weights"])


def _load_onnx(path: pathlib.Path) -> Any:
    import onnx

    try:
        return onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's own
        raise ValueError(f"{path} is no ONNX model: {error}") from error


def _taken(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those options that were given and that a function takes."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in options.items() if name in known and value is not None}


def _print(source: pathlib.Path, framework: str, layer: Layer, params: Any) -> None:
    """A table of the cells that were found."""
    console = rich.console.Console(width=None if sys.stdout.isatty() else 160)
    table = rich.table.Table("layer", "cell", "direction", "inputs", "outputs", "parameters", "dtype")
    for place, own in zip(places(layer), split_params(layer, params), strict=True):
        count = sum(np.size(array) for array in own.values())
        kernel = own["kernel"]
        table.add_row(
            str(place.number or 0),
            str(place.cell),
            "backward" if place.reverse else "forward",
            *(f"{number:,}" for number in (len(kernel), place.cell.output_size, count)),
            str(kernel.dtype),
        )
    console.print(f"{source}, from {framework}:", table, soft_wrap=True)


def main(arguments: list[str] | None = None) -> None:
    """The program."""
    with jax.enable_x64(True):
        try:
            tyro.extras.subcommand_cli_from_dict(
                {"convert": convert, "show": show}, args=arguments, prog="python -m flaxrnn.interop"
            )
        except (DTypeError, ImportError, OSError, ValueError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
