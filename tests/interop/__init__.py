"""Weights in and out of other frameworks, each run beside flaxrnn."""
