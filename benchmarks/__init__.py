"""Programs that measure, and print their figures."""
