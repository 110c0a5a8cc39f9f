"""The GPU backend: the filters and D as Triton and Gluon kernels, none of which writes N x N.

Importing this package loads no Triton. Ask `available(device)` first; then `gpu.search.search_ranges` and
`gpu.measure.measure` are there.
"""

from dm2at_ray.neighbors.gpu.gate import available

__all__ = ["available"]
