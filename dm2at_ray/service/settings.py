"""What `dm2at serve` is told when it starts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from dm2at_ray.errors import ConfigError

THREADS, STORE_THREADS = 14, 64
"""On a local disk requests wait for Python's one lock: with few at work the others are served in the order of
their coming, with fewer still too few labels are written together. An object store is waited for."""


@dataclass(frozen=True)
class ServiceSettings:
    """Settings of the service; all bounds are those of one process.

    Attributes:
        runs: Where the runs are: a local path or a URI; each is a directory in there.
        address: URL of the Ray cluster's dashboard; None where no runs can be started.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        tokens: File of the tokens; None for no tokens, on loopback only.
        data_roots: Places that runs may take images and weights from: local paths or URIs.
        models: Import paths of own models that runs may use.
        metrics_hosts: Addresses beside loopback on which drivers of runs may tell their metrics.
        cache: Folder for the index of labels and for pictures; a temporary one if None.
        cache_bytes: The most that pictures take there.
        lease_seconds: How long a query that was handed out is kept for who has it.
        python: Python on the cluster's nodes.
        max_body_bytes: The longest request.
        max_open_runs: Runs whose label index is kept open.
        max_subscribers: Event streams at once; each costs a connection, no thread.
        threads: Requests at work at once, more wait for their turn; by where the runs are if None.
        poll_seconds: How often a run that somebody watches is looked at.
        comment_seconds: How often a silent event stream shows that it lives.
        sweep_seconds: How often it is looked for runs whose next step is due.
        access_log: Whether every request is logged: who, method, path, status; never a query or a token.
    """

    runs: str
    address: str | None = None
    host: str = "127.0.0.1"
    port: int = 8700
    tokens: Path | None = None
    data_roots: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    metrics_hosts: tuple[str, ...] = ()
    cache: Path | None = None
    cache_bytes: int = 2**30
    lease_seconds: float = 120.0
    python: str = "python"
    max_body_bytes: int = 2**20
    max_open_runs: int = 8
    max_subscribers: int = 200
    threads: int | None = None
    poll_seconds: float = 1.0
    comment_seconds: float = 15.0
    sweep_seconds: float = 60.0
    access_log: bool = False

    @property
    def requests_at_once(self) -> int:
        """Requests at work at once."""
        return self.threads or (STORE_THREADS if "://" in self.runs else THREADS)

    def __post_init__(self) -> None:
        """Refuse what would let anybody in.

        Raises:
            ConfigError: Without tokens, and the host is not this machine's own.
        """
        if self.tokens is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: without --tokens the service listens on 127.0.0.1 only; make tokens by "
                "`dm2at token new NAME --role operate --tokens FILE` and give --tokens FILE"
            )


def is_loopback(host: str) -> bool:
    """Whether a host, as an address or `localhost`, is this machine seen from itself.

    Examples:
        >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "example.org")]
        [True, True, True, False, False]
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
