"""At most one process packs into a pool directory."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dm2at_ray.errors import PoolError, RunError
from dm2at_ray.pool.directory import PoolDirectory
from dm2at_ray.pool.location import one_line
from dm2at_ray.store import Lease
from dm2at_ray.store.files import Files
from dm2at_ray.store.lease import LIFETIME_SECONDS, read_lease

RENEW_SECONDS = 10.0
SETTLE_SECONDS = 0.5
"""Where two took the lease in the same moment, the first sees within this time that the other has it."""


_WAITING = f"another process may be at work on it; waiting up to {LIFETIME_SECONDS:.0f} s for its next word"


@contextmanager
def held(directory: PoolDirectory, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the lease on a pool directory; whoever was killed holds it no longer, elsewhere for a minute.

    Args:
        directory: To pack into.
        say: Takes a line about what is waited for.

    Yields:
        Raises `PoolError` when it is called after the lease was lost.

    Raises:
        PoolError: Another process holds it, or nothing can be written there.
    """
    place, owner = directory.place, uuid.uuid4().hex
    files, uri = Files(place.filesystem, place.path), place.uri
    lease = Lease(files, owner)
    try:
        lease.acquire(lambda _: say(f"pool {uri}: {_WAITING}"))
        time.sleep(SETTLE_SECONDS)
    except RunError:
        raise _taken(uri, read_lease(files)) from None
    except OSError as error:
        raise PoolError(f"pool {uri}: {one_line(error)}; give a place that can be written") from error

    def check() -> None:
        holder = read_lease(files)
        if holder.get("owner") != owner:
            raise _taken(uri, holder)

    check()
    ended = threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, check, ended), daemon=True)
    renewing.start()
    try:
        yield check
    finally:
        ended.set()
        renewing.join()
        lease.release()


def _renew(lease: Lease, check: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            check()
            lease.renew()
        except PoolError:
            return  # The holder's own next check says so.
        except OSError:
            continue  # A store that does not answer now may do so the next time.


def _taken(uri: str, holder: dict) -> PoolError:
    who = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
    return PoolError(f"pool {uri}: {who} packs into it; wait for it, or end it")
