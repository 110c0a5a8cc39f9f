"""Who asks, and whether they may."""

from __future__ import annotations

import time
from typing import NamedTuple

import anyio.to_thread
from starlette.requests import Request

from dm2at_ray.client.schemas import Role
from dm2at_ray.errors import ConfigError
from dm2at_ray.service.problems import ProblemError
from dm2at_ray.service.tokens import ROLES, TokenFile

LOOK_SECONDS = 1.0
"""A token that was revoked is refused after so long."""
_LONGEST_TOKEN = 512


class Caller(NamedTuple):
    """Who asks.

    Attributes:
        name: Of the token; stands beside the labels that they give.
        role: What they may do.
    """

    name: str
    role: Role

    def may(self, role: Role) -> bool:
        """Whether what this role may do is theirs to do."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Caller("local", "operate")
"""Whoever asks where no tokens are asked for."""


class Auth:
    """Tells callers by their tokens.

    Args:
        tokens: The tokens; None where everybody on this machine may do everything.
    """

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens
        self._looked = time.monotonic()

    @property
    def is_on(self) -> bool:
        """Whether tokens are asked for."""
        return self._tokens is not None

    async def admit(self, request: Request, role: Role) -> Caller:
        """Who asks.

        Raises:
            ProblemError: `unauthenticated`: no token, or none that is known; `forbidden`: its role is
                another; `unreachable`: the file of the tokens cannot be read.
        """
        caller = await self._caller(request)
        if not caller.may(role):
            raise ProblemError(
                "forbidden",
                f"the token {caller.name} has the role {caller.role}, this needs {role}; ask for another",
            )
        return caller

    async def _caller(self, request: Request) -> Caller:
        if self._tokens is None:
            return LOCAL
        if time.monotonic() - self._looked > LOOK_SECONDS:
            # A file system that does not answer must stop nobody but who asks.
            await anyio.to_thread.run_sync(self._tokens.look)
            self._looked = time.monotonic()
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            raise ProblemError("unauthenticated", "no token; send the header `Authorization: Bearer TOKEN`")
        try:
            found = self._tokens.find(secret.strip()) if len(secret) <= _LONGEST_TOKEN else None
        except ConfigError:
            raise ProblemError(
                "unreachable",
                "the file of the tokens cannot be read; whoever runs the service has to mend it",
            ) from None
        if found is None:
            raise ProblemError(
                "unauthenticated", "the token is not known; ask whoever runs the service for one"
            )
        return Caller(found.name, found.role)
