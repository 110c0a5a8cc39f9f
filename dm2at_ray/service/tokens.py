"""The file of tokens: names, roles and SHA-256 of the tokens, never a token."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import yaml

from dm2at_ray.client.schemas import Role
from dm2at_ray.errors import ConfigError
from dm2at_ray.service.locks import locked

ROLES: tuple[Role, ...] = get_args(Role)
"""From the least to the most."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PREFIX = "dm2at_"
"""So that scanners for secrets know a token where it should not be."""


@dataclass(frozen=True)
class Token:
    """Who may do what.

    Attributes:
        name: Of who has it; it stands beside the labels that they give.
        role: What it allows.
        sha256: Of the token, in hex.
    """

    name: str
    role: Role
    sha256: str


def read_tokens(path: Path) -> list[Token]:
    """All tokens of a file.

    Raises:
        ConfigError: The file cannot be read, or an entry of it is not as `dm2at token new` writes it.
    """
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"--tokens {path}: {error.strerror}; make it by `dm2at token new NAME --role operate "
            f"--tokens {path}`"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"--tokens {path}: not valid YAML; mend it or restore it") from None
    if not isinstance(found, list):
        raise ConfigError(f"--tokens {path}: not a list of {{name, role, sha256}}; mend it or restore it")
    tokens = [_token(entry, f"--tokens {path}: entry {place}") for place, entry in enumerate(found, start=1)]
    names = [token.name for token in tokens]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--tokens {path}: {name} is there twice; take one of them out")
    return tokens


def _token(entry: Any, where: str) -> Token:
    if not isinstance(entry, dict) or set(entry) != {"name", "role", "sha256"}:
        raise ConfigError(f"{where} has not exactly name, role and sha256; mend it or take it out")
    name, role, sha256 = (entry[key] for key in ("name", "role", "sha256"))
    _check_name(name, where)
    if role not in ROLES:
        raise ConfigError(f"{where}: role {role!r} is unknown; use one of {', '.join(ROLES)}")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ConfigError(f"{where}: sha256 is not 64 hex digits; make a token by `dm2at token new`")
    return Token(name, role, sha256)


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: name {name!r} cannot be used; use up to 64 letters, digits and ._@+-, e.g. "
            "ann@example.org"
        )


def new_token(path: Path, name: str, role: str) -> str:
    """Make a token and add it to a file, which is made where there is none.

    Returns:
        The token: kept nowhere, so it has to be given on now.

    Raises:
        ConfigError: The name is taken, the role is unknown, or the file cannot be read or written.
    """
    secret = _PREFIX + secrets.token_urlsafe(32)
    added = _token({"name": name, "role": role, "sha256": _digest(secret)}, "token")
    with _change(path) as tokens:
        if any(token.name == name for token in tokens):
            raise ConfigError(f"token {name}: {path} has one already; revoke it first or choose another name")
        tokens.append(added)
    return secret


def revoke_token(path: Path, name: str) -> None:
    """Take a token out of a file; a service that runs refuses it a second later.

    Raises:
        ConfigError: There is none of this name, or the file cannot be read or written.
    """
    with _change(path) as tokens:
        kept = [token for token in tokens if token.name != name]
        if len(kept) == len(tokens):
            raise ConfigError(
                f"token {name}: {path} has none of this name; `dm2at token list --tokens {path}` tells them"
            )
        tokens[:] = kept


@contextlib.contextmanager
def _change(path: Path) -> Iterator[list[Token]]:
    """The tokens to be changed in place; written as one when the block ends, one writer at a time."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder = stack.enter_context(locked(path.parent))
        except OSError as error:
            raise _unwritable(path, error) from None
        tokens = read_tokens(path) if path.exists() else []
        yield tokens
        try:
            _write(path, yaml.safe_dump([asdict(token) for token in tokens], sort_keys=False))
            os.fsync(folder)
        except OSError as error:
            raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--tokens {path}: {error.strerror}; choose a place that can be written")


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenFile:
    """The tokens of a file, read again when it changes; thread-safe.

    A file that cannot be read any more lets nobody in: a slip of the pen must not keep a revoked token valid.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read, or has no token.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state = self._stat()
        self._tokens = read_tokens(path)
        self._error: ConfigError | None = None
        if not self._tokens:
            raise ConfigError(
                f"--tokens {path}: no token in it; make one by `dm2at token new NAME --role operate "
                f"--tokens {path}`"
            )

    def look(self) -> None:
        """Read the file if it has changed."""
        with self._lock:
            state = self._stat()
            if state == self._state:
                return
            try:
                self._tokens, self._error = read_tokens(self._path), None
            except ConfigError as error:
                self._tokens, self._error = [], error
            self._state = state

    def find(self, secret: str) -> Token | None:
        """The token that this is.

        Raises:
            ConfigError: The file cannot be read any more.
        """
        if self._error is not None:
            raise self._error
        digest = _digest(secret)
        found = None
        # All of them, so that the time tells nothing.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def _stat(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
