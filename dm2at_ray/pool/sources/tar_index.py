"""What lies where in a tar shard: its headers read one after the other, nothing unpacked."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from dm2at_ray.pool.decode import UnreadableImage
from dm2at_ray.pool.location import is_store_error, one_line
from dm2at_ray.pool.sources.image_folder import SUFFIXES

_BLOCK = 512
_MAX_LABEL_BYTES = 1 << 20
_LABEL_SUFFIXES = ("cls", "json", "txt")  # the first of them that a sample has gives its label
_IMAGE_SUFFIXES = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)


@dataclass
class TarSample:
    """One image of a shard.

    Attributes:
        offset: where its bytes begin in the shard.
        size: how many there are; 0 for a link, which has none.
        labels: text of each label member, by its suffix.
    """

    offset: int
    size: int
    labels: dict[str, str]

    @property
    def label(self) -> str | None:
        """Of the label member that comes first among cls, json and txt."""
        return next((self.labels[suffix] for suffix in _LABEL_SUFFIXES if suffix in self.labels), None)


class DamagedTarError(Exception):
    """A shard whose headers cannot be followed to its end.

    Attributes:
        offset: the last place whose header was in order.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset


def tar_samples(file: pa.NativeFile, label_column: str | None, read_ahead: int) -> Iterator[TarSample]:
    """The images of a shard in their order.

    As in WebDataset a sample is the members, one after the other, whose paths are the same up to the first
    dot of their names; its image is the first member whose whole suffix is an image's (``seg.png`` is none).
    Names are nothing but keys: no member is written anywhere.

    Args:
        file: the shard, open for random access.
        label_column: the field of a ``.json`` member that is the label; None reads no labels at all.
        read_ahead: bytes that are read at once; headers that follow within them cost no further read.

    Raises:
        OSError: the store of the shard cannot be used.
        DamagedTarError: after the samples before the damage.
    """
    buffered = _HeaderReader(file, read_ahead)
    try:
        tar = tarfile.TarFile(fileobj=buffered, mode="r")
    except tarfile.TarError as error:
        raise DamagedTarError(0, one_line(error)) from error
    key: tuple[str, str] | None = None
    sample: TarSample | None = None
    labels: dict[str, str] = {}
    image_suffix, end = "", -1
    try:
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined] # a shard may have millions
            if tar.offset <= end:  # a negative size would send some versions of tarfile in circles
                raise tarfile.ReadError("a header leads backwards")
            end = tar.offset
            folder, _, name = member.name.rpartition("/")
            if member.isdir() or name.startswith("."):
                continue
            stem, _, suffix = name.partition(".")
            suffix = suffix.lower()
            is_image = suffix in _IMAGE_SUFFIXES
            if (folder, stem) != key or (is_image and sample is not None and suffix == image_suffix):
                if sample is not None:
                    yield sample
                key, sample, labels = (folder, stem), None, {}
            if is_image and sample is None:
                image_suffix = suffix
                plain = member.isreg() and not member.issparse()
                sample = TarSample(member.offset_data, member.size if plain else 0, labels)
            elif label_column is not None and suffix in _LABEL_SUFFIXES and member.isreg():
                label = _label(tar, member, suffix, label_column)
                if label is not None:
                    labels[suffix] = label
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        if is_store_error(error):
            raise
        damage: DamagedTarError | None = DamagedTarError(tar.offset, one_line(error))
    else:
        damage = _damage_at_the_end(buffered, tar.offset)
    if sample is not None:
        yield sample
    if damage is not None:
        raise damage


class _HeaderReader(io.BufferedReader):
    """Refuses what no header needs: tarfile takes a header's word for how much memory its extension takes."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_LABEL_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, column: str) -> str | None:
    if member.size > _MAX_LABEL_BYTES:
        return None
    extracted = tar.extractfile(member)  # a view of the member's bytes; nothing is written
    text = extracted.read().decode("utf-8", errors="replace") if extracted is not None else ""
    if suffix != "json":
        return text
    try:
        value = json.loads(text)[column]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return str(value) if isinstance(value, (str, int)) else None


def _damage_at_the_end(file: io.BufferedReader, offset: int) -> DamagedTarError | None:
    """tarfile takes a header that it cannot read for the end; the true end is zeros or that of the file."""
    file.seek(offset)
    return DamagedTarError(offset, "a header is damaged") if any(file.read(_BLOCK)) else None


def damage_finding(offset: int) -> UnreadableImage:
    """What is said of the images behind a damage, whose number nobody knows."""
    return UnreadableImage(f"the tar shard is damaged from byte {offset} on: the images behind it are lost")
