"""A run of a service, by the URL that stands in place of a run directory."""

from __future__ import annotations

from dataclasses import dataclass

from dm2at_ray.client import Client
from dm2at_ray.errors import RunError

_API = "/api/v1"


@dataclass(frozen=True)
class RemoteRun:
    """A run of a service.

    Attributes:
        client: Of the service.
        name: The run's name there.
    """

    client: Client
    name: str

    @classmethod
    def at(cls, url: str) -> RemoteRun:
        """The run at `http(s)://HOST:PORT/runs/NAME`; the environment's DM2AT_TOKEN is sent along.

        Raises:
            RunError: The URL is none of a run.
            ServiceError: It is none of a service.

        Examples:
            >>> RemoteRun.at("http://127.0.0.1:8700/runs/digits")
            RemoteRun(client=Client('http://127.0.0.1:8700'), name='digits')
        """
        service, part, name = url.rstrip("/").rpartition("/runs/")
        if not part or not name or "/" in name:
            raise RunError(f"{url}: no URL of a run; give one like http://127.0.0.1:8700/runs/NAME")
        return cls(Client(service.removesuffix(_API)), name)

    @property
    def url(self) -> str:
        """As it may be given to commands."""
        return f"{self.client.url}/runs/{self.name}"


def is_remote(place: str) -> bool:
    """Whether what stands in place of a run directory is the URL of a service's run.

    Examples:
        >>> is_remote("https://labels.example.org/runs/digits"), is_remote("s3://bucket/runs/digits")
        (True, False)
    """
    return place.startswith(("http://", "https://"))
