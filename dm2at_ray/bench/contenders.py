"""The engines, and the peers that do the same work: what is timed, one kind each in a process of its own."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dm2at_ray.neighbors import search

PAIRS = 1 << 24
"""Distances that torch.cdist writes at once."""

WORK = 1 << 32
"""Pairs x dimensions that a peer is given at once: seconds on two CPU cores, then a look at the clock."""

FEWEST, MOST = 16, 1024
"""Queries that a peer is given at once."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a contender found, and in what time.

    Attributes:
        ids: (P, k) int64 row numbers, the neighbours of the first P queries; no distances, as only some peers
            have those of D.
        seconds: of all the work, without warm-up.
        share: rows whose neighbours were searched, of all N. Below 1 a peer was stopped by its limit, and
            `seconds` is scaled up: its rows cost the same, whatever the others are.
    """

    ids: np.ndarray
    seconds: float
    share: float = 1.0


class Peer(Protocol):
    """A library's search; made anew for every pool."""

    def __init__(self, features: np.ndarray, k: int, device: torch.device) -> None:
        """Take in a pool: indexing, copies to the device."""

    def neighbors(self, rows: np.ndarray) -> np.ndarray:
        """Return (P, k + 1) int64, the nearest of some rows; each row may be among its own."""


class CdistPeer:
    """torch.cdist with p=1 and p=2, added; the k nearest kept, blocks of queries against all rows."""

    def __init__(self, features: np.ndarray, k: int, device: torch.device) -> None:
        self.features = torch.from_numpy(features).to(device)
        self.k = k

    def neighbors(self, rows: np.ndarray) -> np.ndarray:
        """Nearest under D."""
        x = self.features[torch.from_numpy(rows).to(self.features.device)]  # (P, D)
        step = max(1, PAIRS // len(self.features))
        found = [self._nearest(part) for part in x.split(step)]
        return torch.cat(found).cpu().numpy()

    def _nearest(self, x: Tensor) -> Tensor:
        d = torch.cdist(x, self.features, p=1.0)  # (P, N)
        d += torch.cdist(x, self.features, p=2.0)
        return d.topk(self.k + 1, dim=1, largest=False).indices


class FaissPeer:
    """FAISS's flat index under L1, the nearest of its metrics; always on the CPU."""

    def __init__(self, features: np.ndarray, k: int, device: torch.device) -> None:
        import faiss

        self.features = features
        self.index = faiss.IndexFlat(features.shape[1], faiss.METRIC_L1)
        self.index.add(features)
        self.k = k

    def neighbors(self, rows: np.ndarray) -> np.ndarray:
        """Nearest under L1."""
        return self.index.search(self.features[rows], self.k + 1)[1]


class SklearnPeer:
    """scikit-learn's brute force under the city block metric; always on the CPU."""

    def __init__(self, features: np.ndarray, k: int, device: torch.device) -> None:
        from sklearn.neighbors import NearestNeighbors

        self.features = features
        self.index = NearestNeighbors(n_neighbors=k + 1, algorithm="brute", metric="cityblock").fit(features)

    def neighbors(self, rows: np.ndarray) -> np.ndarray:
        """Nearest under L1."""
        return self.index.kneighbors(self.features[rows], return_distance=False)


@dataclass(frozen=True)
class PeerKind:
    """A peer by name.

    Attributes:
        make: its class.
        metric: what it searches under.
        module: what must be there to import.
        package: what to install then.
    """

    make: Callable[[np.ndarray, int, torch.device], Peer]
    metric: str
    module: str
    package: str


PEERS = {
    "cdist": PeerKind(CdistPeer, "L1 + L2", "torch", "torch"),
    "faiss-l1": PeerKind(FaissPeer, "L1 only", "faiss", "faiss-cpu"),
    "sklearn-l1": PeerKind(SklearnPeer, "L1 only", "sklearn", "scikit-learn"),
}


def peers_installed() -> list[str]:
    """Return the names of the peers whose library is there."""
    return [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module) is not None]


def run_engine(
    name: str,
    features: np.ndarray,
    k: int,
    queries: np.ndarray,
    *,
    device: torch.device,
    threads: int,
    seed: int,
) -> Answer:
    """Search a whole pool by an engine of dm2at_ray.neighbors.

    Args:
        name: of the engine, or `auto`.
        features: (N, D) float32.
        k: neighbours of each row.
        queries: (Q,) int64 rows whose neighbours are returned.
        device: where to search; copies there and back are timed, too.
        threads: CPU threads.
        seed: of the engine's own samples.
    """
    began = time.perf_counter()
    found = search(torch.from_numpy(features).to(device), k, engine=name, threads=threads, seed=seed)
    ids, _ = found.numpy()
    return Answer(ids[queries], time.perf_counter() - began)


def run_peer(
    name: str,
    features: np.ndarray,
    k: int,
    order: np.ndarray,
    queries: int,
    *,
    device: torch.device,
    limit: float,
) -> Answer:
    """Search a whole pool by a peer, or as many of its rows as the limit allows.

    Args:
        name: a key of PEERS.
        features: (N, D) float32.
        k: neighbours of each row.
        order: (N,) int64, the rows in the order in which to query them; random, so that those done before
            the limit stand for all.
        queries: Q, how many of the first rows' neighbours are returned; fewer are if the limit comes first.
        device: where torch.cdist works.
        limit: seconds after which no more rows are begun.
    """
    began = time.perf_counter()
    peer = PEERS[name].make(features, k, device)
    ready = time.perf_counter()
    step = min(MOST, max(FEWEST, WORK // features.size))
    kept, done, now = [], 0, ready
    while done < len(order) and (done == 0 or now - began < limit):
        rows = order[done : done + step]
        near = without_self(peer.neighbors(rows), rows)
        if done < queries:
            kept.append(near[: queries - done])
        done += len(rows)
        now = time.perf_counter()
    share = done / len(order)
    return Answer(np.concatenate(kept), ready - began + (now - ready) / share, share)


def without_self(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take each row out of its own neighbours, or the last one where duplicates pushed it out.

    Args:
        ids: (P, k + 1) int64, nearest first.
        rows: (P,) int64.

    Returns:
        (P, k) int64.

    Examples:
        >>> without_self(np.array([[7, 1, 2], [3, 4, 5]]), np.array([7, 8])).tolist()
        [[1, 2], [3, 4]]
    """
    out = ids == rows[:, None]
    out[~out.any(axis=1), -1] = True
    return ids[~out].reshape(len(rows), -1)
