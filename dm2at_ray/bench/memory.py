"""What the processes of a tree hold in memory, looked at from outside while they work."""

from __future__ import annotations

import contextlib
import glob
import re
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
SPILLED = "ray/session_[0-9]*/ray_spilled_objects*/*"
"""Not below `session_latest`, which is a link."""

_TITLE = re.compile(r"^ray::(?P<what>.*?)(?:\.\w+)?(?:\(\))?$")
_RAY_PROGRAMS = ("raylet", "gcs_server")


@dataclass
class MemoryWatch:
    """The highest memory of each kind of process below one.

    Attributes:
        root: id of the process at the root of the tree.
        peak_rss_bytes: kind -> highest resident memory of any one process of it without shared pages, as they
            are mapped by every process that looks at an object in the store: RssAnon + RssFile. Libraries
            count in every process that has them. As of the moments of `look`.
        peak_with_shared_bytes: kind -> highest resident memory with them, by the kernel's own high-water mark
            (VmHWM), which misses nothing between two looks. A process that has done the work of several kinds
            is charged to the one at which its mark has risen.
        peak_shared_bytes: highest shared memory that any one process had mapped: what was ever written to the
            object store, seen from Ray's raylet.
        looks: how often was looked.
    """

    root: int
    peak_rss_bytes: dict[str, int] = field(default_factory=dict)
    peak_with_shared_bytes: dict[str, int] = field(default_factory=dict)
    peak_shared_bytes: int = 0
    looks: int = 0
    _marks: dict[tuple[int, str], int] = field(default_factory=dict)
    _known: set[tuple[int, str]] = field(default_factory=set)

    def look(self) -> None:
        """Look at all processes once."""
        self.looks += 1
        for process in self._tree():
            facts = _status(process[0])
            kind = _kind(process[0], is_root=process[0] == self.root)
            if facts is None or kind is None:
                continue
            without = facts["RssAnon"] + facts["RssFile"]
            self.peak_rss_bytes[kind] = max(self.peak_rss_bytes.get(kind, 0), without)
            self.peak_shared_bytes = max(self.peak_shared_bytes, facts["RssShmem"])
            if facts["VmHWM"] > self._marks.get(process, 0):
                self._marks[process] = facts["VmHWM"]
                known = self.peak_with_shared_bytes.get(kind, 0)
                self.peak_with_shared_bytes[kind] = max(known, facts["VmHWM"])

    def _tree(self) -> list[tuple[int, str]]:
        """Ids and start times of the root and its descendants, those included whose parents have died."""
        parents: dict[int, int] = {}
        starts: dict[int, str] = {}
        for directory in PROC.iterdir():
            if not directory.name.isdigit():
                continue
            try:
                # The command may hold spaces and parentheses; what follows its last one does not.
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(directory.name)], starts[int(directory.name)] = int(fields[1]), fields[19]
        inside = {pid for pid, start in starts.items() if (pid, start) in self._known} | {self.root}
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in inside} - inside
            inside |= more
            grown = bool(more)
        self._known = {(pid, starts[pid]) for pid in inside if pid in starts}
        return sorted(self._known)


def _status(pid: int) -> dict[str, int] | None:
    """Bytes by the names of /proc/PID/status; None for a process that has ended."""
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ("VmHWM", "RssAnon", "RssFile", "RssShmem")
    if any(name not in values for name in names):
        return None
    return {name: int(values[name].split()[0]) * 1024 for name in names}


def _kind(pid: int, *, is_root: bool) -> str | None:
    """What a process does, from its command line; None for one that has ended."""
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if not words[0]:
        return None
    return "launcher" if is_root else kind_of([word.decode(errors="replace") for word in words])


def kind_of(command: list[str]) -> str:
    """What a process of Ray does, as a word or two, from its command line.

    Examples:
        >>> kind_of(["ray::DriverActor.run"]), kind_of(["ray::MapWorker(MapBatches(Embedder)).submit"])
        ('driver', 'actor Embedder')
        >>> kind_of(["ray::search_shard_pair()"]), kind_of(["ray::IDLE"]), kind_of(["/a/b/raylet", "--x=1"])
        ('task search_shard_pair', 'idle worker', 'raylet')
    """
    title = _TITLE.match(command[0].strip())
    if title is None:
        program = Path(command[0].split()[0] if command[0].split() else "").name
        if program in _RAY_PROGRAMS:
            return program
        return "other"
    what = title["what"]
    if what == "IDLE":
        return "idle worker"
    if what.startswith("DriverActor"):
        return "driver"
    # Ray Data's names say which operators a worker is of: the innermost is the work.
    inner = re.findall(r"\(([^()]+)\)", what)
    if inner:
        return f"actor {inner[-1]}" if what.startswith("MapWorker") else f"task {inner[-1]}"
    if what.endswith("Agent"):
        return f"Ray's {what}"
    return f"actor {what}" if what[:1].isupper() else f"task {what}"


@dataclass
class SpillWatch:
    """What Ray has moved from its object store to the disk.

    Attributes:
        directory: Ray's temporary folder.
    """

    directory: Path
    _sizes: dict[Path, int] = field(default_factory=dict)

    def look(self) -> None:
        """Look for files once; what came and went between two looks is missed."""
        # Not Path.glob, which fails where a folder goes while it looks.
        for name in glob.glob(str(self.directory / SPILLED)):
            path = Path(name)
            with contextlib.suppress(OSError):
                self._sizes[path] = max(self._sizes.get(path, 0), path.stat().st_size)

    @property
    def total_bytes(self) -> int:
        """All that was seen, be it there any more or not."""
        return sum(self._sizes.values())
