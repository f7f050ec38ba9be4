"""Weights in and out of other frameworks: one module for each, none of which is imported before it is needed.

Each has `layer_for`, the flaxrnn layer that a foreign network is, `import_weights(layer, weights)`, its parameters, and
`export_weights(layer, params)`, the way back. Arrays go out as NumPy's.
"""

from flaxrnn.interop import cudnn, equinox, haiku, keras, linen, nnx, onnx, stablehlo, tf1, torch
from flaxrnn.interop.files import load, save

__all__ = [
    "cudnn",
    "equinox",
    "haiku",
    "keras",
    "linen",
    "load",
    "nnx",
    "onnx",
    "save",
    "stablehlo",
    "tf1",
    "torch",
]
