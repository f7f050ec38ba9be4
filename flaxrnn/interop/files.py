"""Weights in safetensors files, which hold arrays by name and, unlike pickled files, no code."""

import os
import pathlib
import secrets
from typing import Any

from flaxrnn.interop.arrays import Arrays, flatten, to_numpy


def load(path: str | os.PathLike[str]) -> Arrays:
    """The arrays of a safetensors file, by name.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no safetensors file; pickled files (`.pt`, `.pth`, `.pkl`), which can run any code as they
        are read, are never opened.
    """
    import safetensors
    import safetensors.numpy

    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: pass a safetensors file")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return dict(safetensors.numpy.load_file(path))
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is no safetensors file ({error}): write one where the weights were trained, for instance by "
            "safetensors.torch.save_file(module.state_dict(), path)"
        ) from error


def save(path: str | os.PathLike[str], weights: Any) -> None:
    """Writes arrays by name, or a tree of them, to a safetensors file; the file is there whole or not at all.

    Example:
      >>> import os, tempfile, jax, flaxrnn
      >>> from flaxrnn import interop
      >>> layer = flaxrnn.RNN(flaxrnn.cells.GRU(4))
      >>> params = layer.init(jax.random.key(0), input_size=3)
      >>> path = os.path.join(tempfile.mkdtemp(), "torch.safetensors")
      >>> interop.save(path, interop.torch.export_weights(layer, params))
      >>> interop.torch.layer_for(interop.load(path))
      RNN(cell=GRU(hidden_size=4), reverse=False, include_initial=False)
    """
    import safetensors.numpy

    write_whole(path, safetensors.numpy.save({name: to_numpy(name, value) for name, value in flatten(weights).items()}))


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file beside its place and moves it there, so that no half of it is ever seen."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{secrets.token_hex(8)}.part")
    with open(beside, "xb") as file:
        try:
            file.write(data)
            file.close()
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
