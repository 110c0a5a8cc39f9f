"""CIFAR's batch files, which are pickles, read as data: their opcodes are looked at and none is carried out.

Unpickling runs what a file says. These files need few opcodes: dictionaries, lists, strings, numbers and one
array of bytes, which numpy writes as a call of its own functions. That call is recognised by its name and
its result built here; any other is refused.
"""

from __future__ import annotations

import pickletools
from typing import Any

import numpy as np

_ARRAY_MAKERS = {"numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"}
_NAMES = _ARRAY_MAKERS | {"numpy ndarray", "numpy dtype", "_codecs encode"}
_VALUES = {
    "BININT", "BININT1", "BININT2", "INT", "LONG1", "BINSTRING", "SHORT_BINSTRING", "BINUNICODE",
    "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()


class _Name(str):
    """A function or class that the file names; never looked up."""


class _Made:
    """What a named function would have made of its arguments."""

    def __init__(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.name, self.arguments = name, arguments
        self.state: Any = None


def read_batch(data: bytes) -> dict[str, Any]:
    """The dictionary of one of CIFAR's files, with text keys and its arrays as NumPy arrays of uint8.

    Raises:
        ValueError: the file is none, or holds something else than such data.
    """
    try:
        batch = _resolved(_run(data))
    except (IndexError, TypeError, KeyError, AttributeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"damaged ({type(error).__name__})") from error
    if not isinstance(batch, dict):
        raise ValueError("no dictionary")
    return batch


def _run(data: bytes) -> Any:
    """The file's value: what a stack machine makes of its opcodes."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def above_mark() -> list[Any]:
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("damaged (no mark)")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "TUPLE":
            stack.append(tuple(above_mark()))
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else above_mark()
            stack[-1].extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else above_mark()
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            named = argument if name == "GLOBAL" else f"{stack.pop(-2)} {stack.pop()}"
            if named not in _NAMES:
                raise ValueError(f"it asks for {named[:60]!r}, which no file of numbers needs")
            stack.append(_Name(named))
        elif name == "REDUCE":
            arguments, maker = stack.pop(), stack.pop()
            if not isinstance(maker, _Name):
                raise ValueError("damaged (no function)")
            stack.append(_Made(str(maker), tuple(arguments)))
        elif name == "BUILD":
            state = stack.pop()
            if not isinstance(stack[-1], _Made):
                raise ValueError("damaged (no object)")
            stack[-1].state = state
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"it holds {name}, which no file of numbers needs")
    raise ValueError("it ends too early")


def _resolved(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text(key): _resolved(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_text(item) for item in value]
    if isinstance(value, _Made):
        return _array(value)
    return value


def _array(made: _Made) -> np.ndarray:
    """The array of uint8 that numpy's ``_reconstruct`` and its state describe."""
    if made.name not in _ARRAY_MAKERS:
        raise ValueError(f"a {made.name} where data should be")
    _, shape, dtype, is_fortran, raw = made.state
    if not isinstance(dtype, _Made) or _text(dtype.arguments[0]) != "u1":
        raise ValueError("an array of something else than bytes")
    if isinstance(raw, _Made):  # how Python 3 writes bytes for Python 2
        raw = raw.arguments[0]
    data = raw.encode("latin-1") if isinstance(raw, str) else raw
    if any(not isinstance(side, int) or side < 0 for side in shape):
        raise ValueError("an array without a shape")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if is_fortran else "C")


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
