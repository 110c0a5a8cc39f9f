"""Server-sent events, as the WHATWG's HTML standard has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def events(parts: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Name and data of each event in the parts of a stream; one that was cut off is left out.

    Examples:
        >>> list(events([b": hello", b"\\n\\nevent: status\\ndata: a\\nda", b"ta: b\\n\\ndata: cut"]))
        [('status', 'a\\nb')]
    """
    name, data = "", list[str]()
    for line in _lines(parts):
        if not line:
            if data:
                yield name or "message", "\n".join(data)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _lines(parts: Iterable[bytes]) -> Iterator[str]:
    held = b""
    for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
