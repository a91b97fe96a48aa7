"""Tells when this machine's memory, or a limit on it, is what ran out, in the words of the libraries that notice it.

Takes an exception, returns an error of one line: how much this process holds, how much it may, and what needs less.
Python says MemoryError, C++ `std::bad_alloc`, OpenCV and torch have words of their own, and a library that cannot be
loaded, or a thread that cannot be started, is mostly the same. (Of a GPU's memory `gpu_faults` knows.)
"""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from deltactl.errors import MemoryFullError

ADDRESS_SPACE = 2_500_000_000
"""Bytes of address space below which the libraries may not even load; what they really use is a fifth of it."""
_WORDS = re.compile(
    r"bad_alloc|can't allocate memory|cannot allocate memory|insufficient memory|unable to allocate|"
    r"failed to allocate|failed to map segment|can't start new thread|resource temporarily unavailable",
    re.IGNORECASE,
)


def memory_fault(error: BaseException) -> MemoryFullError | None:
    """Return the error that says that memory ran out, if that is what an exception comes from; None elsewhere."""
    if not any(_is_of_memory(each) for each in _chain(error)):
        return None
    held = _table_bytes(Path("/proc/self/status"), "VmRSS")
    facts = [f"this process holds {_gigabytes(held)}"] if held else []
    limit, total = resource.getrlimit(resource.RLIMIT_AS)[0], _table_bytes(Path("/proc/meminfo"), "MemTotal")
    if limit != resource.RLIM_INFINITY:
        facts.append(f"its address space may have {_gigabytes(limit)} (ulimit -v)")
    if total:
        facts.append(f"this machine has {_gigabytes(total)}")
    what = " ".join(str(error).split())[:120] or type(error).__name__
    return MemoryFullError(
        f"memory ran out ({what}): {', '.join(facts)}; give it more, or let it do less at once (fewer --workers, a "
        "smaller --batch-size), then run the same command again: finished work is kept"
    )


def too_small_limit() -> str | None:
    """Return what to warn of if the limit on address space is below what the libraries need to load."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE:
        return None
    return (
        f"ulimit -v allows {_gigabytes(limit)} of address space, less than the {_gigabytes(ADDRESS_SPACE)} that the "
        "libraries may need to load; where they end this program (bad_alloc, or an import that fails), raise it"
    )


def _is_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    of_library = isinstance(error, ImportError | RuntimeError) or type(error).__module__.startswith(("cv2", "av"))
    return of_library and _WORDS.search(str(error)) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


def _table_bytes(file: Path, name: str) -> int:
    """Return a value of one of the kernel's tables, in bytes; 0 if it does not say."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0
