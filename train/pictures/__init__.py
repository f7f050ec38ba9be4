"""The pictures of a run, one file for each kind."""
