"""The shapes that all benchmarks use."""

SHAPES = {
    "rows": (128, 28, 28, 128),
    "pixels": (128, 784, 1, 128),
    "text": (32, 256, 64, 256),
    "wide": (64, 128, 512, 512),
    "one": (1, 256, 64, 256),
}
"""By name: batch, time, input and hidden size."""
STEP = {"step": (64, 1, 64, 256)}
"""A single step, likewise."""
