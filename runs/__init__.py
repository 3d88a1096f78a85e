"""The records of runs, and every way to reach them."""
