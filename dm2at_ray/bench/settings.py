"""What a neighbour benchmark is asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dm2at_ray.bench.checks import check_above_zero, check_at_least, check_device, check_names
from dm2at_ray.bench.contenders import PEERS, peers_installed
from dm2at_ray.bench.machine import cores
from dm2at_ray.errors import ConfigError
from dm2at_ray.neighbors import ENGINES

DEFAULT_N = 20_000
DEFAULT_D = 512


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The work of `dm2at bench neighbors`.

    Raises:
        ConfigError: a value is out of range, or an engine, a peer or a device is not there.
    """

    sizes: Sequence[int] = ()
    """Rows, one study for each; 20,000, or all rows of `features`, if empty."""

    dim: int | None = None
    """Features of a row; 512, or those of `features`."""

    k: int = 10
    """Neighbours of each row."""

    engines: Sequence[str] = tuple(ENGINES)
    """Engines of dm2at_ray.neighbors, `auto` among them."""

    peers: Sequence[str] | None = None
    """Other libraries that do the same work; None: all that are installed."""

    features: Path | None = None
    """A .npy file of (N, D) floats; None makes features of real images."""

    save_features: Path | None = None
    """Where the features that were made are kept."""

    images: Path | None = None
    """Folder of Fashion-MNIST's four IDX files."""

    audit_queries: int = 1000
    """Random rows whose neighbours are checked against a float64 reference."""

    peer_limit: float = 300.0
    """Seconds after which a peer stops and its time is scaled from the rows done."""

    limit: float = 3600.0
    """Seconds after which an engine is given up."""

    repeat: int = 1
    """Times that an engine runs; its time is the median."""

    threads: int = 0
    """CPU threads of every engine and peer; 0: as many as there are cores."""

    seed: int = 0
    """Of images, network and queries."""

    device: str = "cpu"
    """Where engines and torch.cdist run."""

    def __post_init__(self) -> None:
        for name, smallest in (("k", 1), ("audit_queries", 1), ("repeat", 1), ("threads", 0), ("seed", 0)):
            check_at_least(name, getattr(self, name), smallest)
        for n in self.sizes:
            check_at_least("n", n, 2)
        if self.dim is not None:
            check_at_least("d", self.dim, 1)
        for name in ("peer_limit", "limit"):
            check_above_zero(name, getattr(self, name))
        check_names("engine", self.engines, ("auto", *ENGINES))
        check_names("peer", self.peers or (), tuple(PEERS))
        for peer in self.peers or ():
            if peer not in peers_installed():
                raise ConfigError(f"peer={peer!r} is not installed; pip install {PEERS[peer].package}")
        if self.features is not None:
            for name in ("save_features", "images"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"{name}={getattr(self, name)} has no effect: features are read from {self.features}"
                    )
        if self.save_features is not None and not self.save_features.parent.is_dir():
            raise ConfigError(f"save_features={self.save_features}: no such folder; make it first")
        check_device(self.device)

    def peer_names(self) -> list[str]:
        """Return the peers to run."""
        return list(peers_installed() if self.peers is None else self.peers)

    def thread_count(self) -> int:
        """Return the threads of an engine or peer."""
        return self.threads or cores()
