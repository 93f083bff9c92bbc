"""Files read only from where they belong, and written under their final name only once whole."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any


def find(directory: Path, name: str, *, folder: Path | None = None) -> Path | None:
    """The path of a checkpoint's file, checked before it is opened; None if there is none.

    Symbolic links may stay within the directory. In the layout of HuggingFace's cache,
    `models--*/snapshots/<revision>/`, they may stay within the `models--*` folder, where their
    `blobs/` lie.

    Args:
      directory: of the checkpoint.
      name: of a file in it, with no folder.
      folder: of the file, if it lies deeper; links may go as far as those of `directory`.

    Raises:
      ValueError: if the name has a folder, the file lies outside, or it is no regular file (a
        pipe would wait for ever, a device has no end).
    """
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        raise ValueError(
            f"{directory}: expected the name of a file in this directory, found {name!r}, which "
            "points elsewhere; do not trust this checkpoint"
        )
    path = (folder or directory) / name
    try:
        target = path.resolve(strict=True)
    except FileNotFoundError:
        if not path.is_symlink():
            return None
        raise ValueError(
            f"{path}: expected a file, found a link to {os.readlink(path)}, which is missing; "
            "download it again"
        ) from None
    except (OSError, RuntimeError) as error:  # names too long, links in a circle
        raise ValueError(
            f"{path}: expected a file, found that it cannot be opened: {error}"
        ) from None
    home = _home(directory.resolve())
    if not target.is_relative_to(home):
        raise ValueError(
            f"{path}: expected a file within {home}, found a link to {target}; if you trust it, "
            "replace the link by a copy of that file"
        )
    if not stat.S_ISREG(target.stat().st_mode):
        raise ValueError(f"{path}: expected a regular file, found another kind; remove it")
    return path


def _home(directory: Path) -> Path:
    """The folder within which a checkpoint's links may point; its path is resolved."""
    snapshots = directory.parent
    if snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--"):
        return snapshots.parent
    return directory


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint.

    Raises:
      ValueError: if the file is missing or not to be opened (see `find`), or is not JSON, naming
        the line; or holds no object.
    """
    path = find(directory, name)
    if path is None:
        raise ValueError(
            f"{directory / name}: no such file; expected a directory in HuggingFace layout "
            "(config.json, model.safetensors, tokenizer files)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}: expected JSON, found {error.msg} at line {error.lineno} column {error.colno}"
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, found {error.reason}") from None
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """A map of pairs.

    Raises:
      ValueError: if a name comes twice: one of the two would be lost.
    """
    content = dict(pairs)
    if len(content) != len(pairs):
        twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice!r} twice")
    return content


def listed(items: Sequence[str], *, most: int = 8) -> str:
    """Items in one line of readable length: the first few, and how many more there are."""
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def shortened(text: str, *, most: int = 800) -> str:
    """A text of readable length: its beginning, and its end, where a message has its remedy."""
    return text if len(text) <= most else f"{text[: most - 200]} ... {text[-200:]}"


@contextlib.contextmanager
def writing_alone(folder: Path) -> Iterator[None]:
    """Within it, no other process that asks for the same writes into this folder.

    The lock lies beside the folder, under a hidden name that ends in `.lock`, and is gone at the
    end. The system frees it when its owner dies. Where nothing may be written beside the folder
    there is none.

    Args:
      folder: that is about to be written; it need not exist.

    Raises:
      ValueError: if another process has it, naming that.
    """
    import filelock

    folder = folder.resolve()
    path = folder.with_name(f".{folder.name}.lock")
    if path in _OURS:
        yield
        return
    lock = filelock.FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        owner = ""
        with contextlib.suppress(OSError, ValueError):
            owner = path.read_text(encoding="utf-8").strip()
        owner = owner or "another process"
        raise ValueError(
            f"{folder}: expected a folder that no other run writes into, found that of {owner}; "
            "wait for its end, or choose another folder"
        ) from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        yield
        return
    try:
        _OURS.add(path)
        with contextlib.suppress(OSError):
            path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        _OURS.discard(path)
        path.unlink(missing_ok=True)  # as long as it is ours
        lock.release()


@contextlib.contextmanager
def room_for(directory: Path, size: int = 0) -> Iterator[None]:
    """Within it so many bytes are saved, or an unknown number; no room for them is one line.

    Raises:
      ValueError: with what was needed and found; earlier saves are whole.
    """
    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    try:
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield
    except Exception as error:  # writers have many names for a disk that is full
        in_words = size and "RESOURCE_EXHAUSTED" in str(error)  # else it is memory that is full
        if not in_words and getattr(error, "errno", 0) not in _FULL:
            raise
        free = free if size else shutil.disk_usage(place).free
        needed = f" for {size / 1e6:,.1f} MB" if size else ""
        raise ValueError(
            f"{directory}: expected room{needed} to save, found {free / 1e6:,.1f} MB free; what "
            "was saved before is whole: make room, and the same command goes on from there"
        ) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)
_OURS: set[Path] = set()  # locks that this process has, of folders within which it may ask again


def cache_folder() -> Path:
    """Where what can be made anew is kept: `KIS_CACHE`, or `~/.cache/kis_jax` if it is not set."""
    named = os.environ.get("KIS_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "kis_jax"


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it on success, removes it on failure.

    The temporary name keeps the suffix, as some writers choose the format by it.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def write_directory_atomically(directory: Path) -> Iterator[Path]:
    """Gives a temporary directory beside `directory`; on success it takes its place and name.

    What stood under that name is kept until the new one is whole, then removed: whether it may be
    is for the caller to know. On failure the temporary directory is removed.
    """
    directory = directory.resolve()
    directory.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that what a killed process left behind is in nobody's way; the
    # directories are made within it, as mkdtemp lets nobody else read its own.
    place = tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}.", suffix=".partial")
    temporary, former = Path(place, "new"), Path(place, "former")
    try:
        temporary.mkdir()
        yield temporary
        try:
            if directory.exists():
                directory.rename(former)
            temporary.rename(directory)
        except BaseException:  # an interrupt between the two as well
            if former.exists() and not directory.exists():
                former.rename(directory)
            raise
    finally:
        if directory.exists() or not former.exists():  # else it is all that is left
            shutil.rmtree(place, ignore_errors=True)


def check_replaceable(
    directory: Path, *, kind: str, foreign: Callable[[Path], Collection[str]]
) -> None:
    """Checks that nothing is lost when a directory is replaced.

    Args:
      directory: that is about to be written; it need not exist.
      kind: of what may be replaced, for messages.
      foreign: names in a directory that is not empty and that are not of that kind.

    Raises:
      ValueError: if it holds anything foreign, or is a file.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise ValueError(f"{directory}: expected the name of a directory, found a file")
    if any(directory.iterdir()) and (found := foreign(directory)):
        raise ValueError(
            f"{directory}: expected an empty directory, or one that holds an earlier {kind} and "
            f"nothing else, found {listed(sorted(found))}; name a new one"
        )
