"""The neighbour search's kernels for CPUs, compiled by numba; imported where they are used only."""
