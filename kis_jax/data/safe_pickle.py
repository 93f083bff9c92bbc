"""Object arrays in `.npy` files, which are pickles, read so that no code in them can run.

A pickle is a program: it names functions of any module and calls them. Here it may name four, those
by which NumPy writes arrays, and is given inert stand-ins for them: not even NumPy's own functions
are called with what a stranger's file says. Whatever else it names ends the reading. Its steps are
looked through before they are taken: some need no function to exhaust memory or the stack.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
_NAMES = ("ndarray", "dtype", "_reconstruct", "scalar")
_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|U\d{1,6}")
_NESTING = ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET")
_DEEPEST = 20
# They move a stack in ways that need not be followed: nothing plain is written with them.
_NEEDLESS = ("POP", "POP_MARK", "DUP", "INST", "OBJ")
_REMEDY = (
    "download it again, or convert it, if you trust where it comes from: "
    "python -c 'import json, sys, numpy; "
    'json.dump(numpy.load(sys.argv[1], allow_pickle=True).tolist(), open(sys.argv[2], "w"))\' '
    "FILE.npy FILE.json"
)


def is_npy(path: Path) -> bool:
    """Whether a file begins as NumPy's arrays do."""
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def read_object_array(path: Path, *, axes: int = 1) -> list[Any]:
    """The elements of an array of objects in a `.npy` file, as plain Python values.

    Args:
      path: of the file.
      axes: how many the array has; of two, its rows are given.

    Returns:
      Lists, tuples, dictionaries, sets, strings, bytes, numbers and None, nested as they are;
      arrays within them as lists.

    Raises:
      ValueError: if it is no such file, is damaged, or holds anything else; nothing of it has run.
    """
    with path.open("rb") as file:
        shape = _read_header(file, path, axes)
        try:
            steps = file.read()
            _check_steps(steps)
            # Each value takes a byte of the file; one that is referred to again may cost none.
            found = _Plain(64 * len(steps)).of(_Unpickler(io.BytesIO(steps)).load())
        except Exception as error:  # a broken pickle raises whatever its broken steps do
            reason = str(error) or type(error).__name__
            raise ValueError(
                f"{path}: expected an array of plain values, found that {reason}; {_REMEDY}"
            ) from None
    if not isinstance(found, list) or len(found) != math.prod(shape):
        raise ValueError(f"{path}: expected {math.prod(shape)} elements, found others; {_REMEDY}")
    width = shape[-1]
    return found if axes == 1 else [found[i : i + width] for i in range(0, len(found), width or 1)]


def _read_header(file: BinaryIO, path: Path, axes: int) -> tuple[int, ...]:
    """Reads up to where the pickle begins."""
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except Exception as error:  # a broken header is read as Python, and breaks as that may
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path}: expected a .npy file, found none ({reason}); download it again"
        ) from None
    if not dtype.hasobject or len(shape) != axes:
        wanted = "one axis" if axes == 1 else "two axes"
        raise ValueError(
            f"{path}: expected an array of objects with {wanted}, found {dtype} of shape {shape}; "
            "pass puzzles as published, or as JSON lines, and right answers that stand in a file "
            "of their own with --labels"
        )
    return shape


def _check_steps(steps: bytes) -> None:
    """Raises UnpicklingError where steps alone do harm, by running them on depths for values.

    A memo is as long as its largest index says; and the hash of a tuple, which as the key of a
    dictionary it must have, takes the stack of the process for each tuple within it.
    """
    depths: list[
        tuple[int, int]
    ] = []  # of tuples in tuples, and how many elements they have in all
    marks: list[int] = []
    memo: dict[int | None, tuple[int, int]] = {}
    for step, argument, _ in pickletools.genops(steps):
        if step.name in _NEEDLESS:
            raise pickle.UnpicklingError(f"it has the step {step.name}, which array files do not")
        if step.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            index = len(memo) if argument is None else argument
            if index > len(steps):
                raise pickle.UnpicklingError("it numbers more values than it has")
            memo[index] = depths[-1]
        elif step.name in ("GET", "BINGET", "LONG_BINGET"):
            depths.append(memo[argument])
        elif step.name == "MARK":
            marks.append(len(depths))
        else:
            above = step.stack_before
            start = len(depths) - len(above)
            if pickletools.markobject in above:
                start = marks.pop() - above.index(pickletools.markobject)
            depth = max((depth for depth, _ in depths[start:]), default=0)
            size = 1
            if step.name in _NESTING:
                depth, size = depth + 1, 1 + sum(size for _, size in depths[start:])
            if start < 0 or depth > _DEEPEST or size > len(steps):
                raise pickle.UnpicklingError("it is nested too deeply")
            depths[start:] = [(depth, size)] * len(step.stack_after)


class _Unpickler(pickle.Unpickler):
    """Knows NumPy's four names by stand-ins, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _NAMES:
            return _StandIn(name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not loaded")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of itself")


class _StandIn:
    """Of one of NumPy's names: calling it makes a note of what was asked for."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        if self._name == "dtype" and arguments and type(arguments[0]) is str:
            return _Dtype(arguments[0])
        if self._name == "_reconstruct":
            return _Array()
        if self._name == "scalar" and len(arguments) == 2:
            dtype, content = arguments
            return _numbers(dtype, content, 1)[0]
        raise pickle.UnpicklingError(f"it calls numpy.{self._name}, which array files do not")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"it tries to change numpy.{self._name}")


class _Dtype:
    """A dtype, by its code; the byte order comes as its state."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]
        else:
            raise pickle.UnpicklingError("it holds a dtype that is not known")


class _Array:
    """An array, as the state that it was given."""

    __slots__ = ("by_columns", "content", "dtype", "shape")

    def __init__(self) -> None:
        self.shape, self.dtype, self.by_columns, self.content = (), _Dtype("O"), False, []

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.by_columns, self.content = state


class _Plain:
    """Values with their arrays as lists, up to a number of them.

    A list that holds one list many times, and that another, and so on, is short to write and has no
    end to read.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    def of(self, value: Any, depth: int = 0) -> Any:
        """A value with its arrays as lists.

        Raises:
          pickle.UnpicklingError: at anything that is not plain data, or nested beyond reason.
        """
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise pickle.UnpicklingError("it is nested too deeply")
        if isinstance(value, _Array):
            value = _elements(value)
        if isinstance(value, dict):
            return {self.of(k, depth + 1): self.of(v, depth + 1) for k, v in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return type(value)(self.of(item, depth + 1) for item in value)
        if value is None or type(value) in (str, bytes, bool, int, float):
            return value
        raise pickle.UnpicklingError(f"it holds a {type(value).__name__.strip('_')}")


def _elements(array: _Array) -> list[Any]:
    """The elements of an array in a row."""
    shape = array.shape
    if not isinstance(array.dtype, _Dtype) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("it holds an array without shape or dtype")
    if len(shape) > 64 or not all(type(length) is int and length >= 0 for length in shape):
        raise pickle.UnpicklingError("it holds an array of no possible shape")
    size = math.prod(shape)
    if re.fullmatch(r"O8?", array.dtype.code):
        if not isinstance(array.content, list) or len(array.content) != size:
            raise pickle.UnpicklingError("it holds an array of another size than it says")
        return array.content
    found = _numbers(array.dtype, array.content, size)
    if array.by_columns is True:  # text too: NumPy turns it by places
        return [
            found[place] for place in np.arange(size).reshape(shape, order="F").ravel().tolist()
        ]
    return found


def _numbers(dtype: Any, content: Any, size: int) -> list[Any]:
    """Numbers or strings from their bytes."""
    if not isinstance(dtype, _Dtype) or not _NUMBERS.fullmatch(dtype.code):
        raise pickle.UnpicklingError("it holds an array of neither numbers nor text")
    known = np.dtype(dtype.order.replace("|", "=") + dtype.code)
    if not isinstance(content, bytes) or len(content) != size * known.itemsize:
        raise pickle.UnpicklingError("it holds an array of another size than it says")
    return np.frombuffer(content, known).tolist()
