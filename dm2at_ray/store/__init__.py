"""What a run leaves on disk: the run directory, its rounds, their atomic commit, and the lease on it."""

from dm2at_ray.store.lease import Lease
from dm2at_ray.store.rounds import RoundDirectory
from dm2at_ray.store.run_directory import RunDirectory

__all__ = ["Lease", "RoundDirectory", "RunDirectory"]
