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
from flaxrnn.interop.files import write_whole
from flaxrnn.interop.places import places, split_params
from flaxrnn.layers import Layer

Framework = Literal["torch", "keras", "tf1", "linen", "nnx", "haiku", "equinox", "cudnn", "onnx"]
Source = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
Target = Annotated[pathlib.Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
From = Annotated[Framework, tyro.conf.arg(name="from")]


@dataclasses.dataclass
class Reading:
    """How to read the source.

    Attributes:
      prefix: what the names of the network begin with in the file; others are left out.
      forget_bias: what TF1's LSTM cells add to the forget gate at run time.
      hidden_size: the size of the LSTM in cuDNN's vector.
      num_layers: the number of its layers.
      bidirectional: whether it reads from both ends.
    """

    prefix: str = ""
    forget_bias: float = 1.0
    hidden_size: int | None = None
    num_layers: int = 1
    bidirectional: bool = False


@dataclasses.dataclass
class Writing:
    """How to write the target.

    Attributes:
      target_forget_bias: what TF1's LSTM cells will add to the forget gate at run time.
      optimized: whether nnx's LSTM cells are `OptimizedLSTMCell`.
      overwrite: whether to replace a file that is there.
    """

    target_forget_bias: float = 1.0
    optimized: bool = False
    overwrite: bool = False


def show(source: Source, from_: From, reading: tyro.conf.OmitArgPrefixes[Reading] = Reading()) -> None:  # noqa: B008
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
    reading: tyro.conf.OmitArgPrefixes[Reading] = Reading(),  # noqa: B008
    writing: tyro.conf.OmitArgPrefixes[Writing] = Writing(),  # noqa: B008
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
    layer, params = _read(source, from_, reading)
    _print(source, from_, layer, params)
    module = getattr(interop, to)
    if to == "onnx" and target.suffix == ".onnx":
        write_whole(target, module.export_model(layer, params).SerializeToString())
    else:
        options = {"forget_bias": writing.target_forget_bias, "optimized": writing.optimized}
        weights = module.export_weights(layer, params, **_taken(module.export_weights, options))
        interop.save(target, {"weights": weights} if to == "cudnn" else weights)
    print(f"written for {to}: {target}")


def _read(source: pathlib.Path, framework: Framework, reading: Reading) -> tuple[Layer, Any]:
    """The layer in a file, and its parameters."""
    module = getattr(interop, framework)
    if framework == "onnx" and source.suffix == ".onnx":
        import onnx

        weights: Any = onnx.load(source)
    else:
        weights = interop.load(source)
    if framework == "cudnn":
        if reading.hidden_size is None:
            raise ValueError(
                "cuDNN's vector does not tell its sizes: pass --hidden-size, and --num-layers, --bidirectional"
            )
        layer = module.layer_for(
            hidden_size=reading.hidden_size, num_layers=reading.num_layers, bidirectional=reading.bidirectional
        )
        if list(weights) != ["weights"]:
            raise ValueError(f"{source} has {', '.join(weights)}: for cuDNN it is to have one vector, called weights")
        return layer, module.import_weights(layer, weights["weights"])
    layer = module.layer_for(weights, reading.prefix)
    options = {"prefix": reading.prefix, "forget_bias": reading.forget_bias}
    return layer, module.import_weights(layer, weights, **_taken(module.import_weights, options))


def _taken(function: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those options that a function takes."""
    return {name: value for name, value in options.items() if name in inspect.signature(function).parameters}


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
        except (ImportError, OSError, TypeError, ValueError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
