"""Data for the programs."""
