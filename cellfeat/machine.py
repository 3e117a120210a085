"""What this machine has left: memory within the limits of containers and schedulers, disk, cores, places to write."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
OLD_GROUP = GROUPS / "memory"  # of version 1, as older schedulers have it
NO_LIMIT = 1 << 60  # version 1 writes "none" as a number near 2**63


def free_memory() -> float | None:
    """Bytes that this process may still take, of the machine and of its control groups; None where nothing tells."""
    found = [value for value in (_free_of_machine(), free_of_groups(), _free_of_old_group()) if value is not None]
    return min(found, default=None)


def _free_of_machine() -> float | None:
    try:
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    try:
        import psutil  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return None
    return float(psutil.virtual_memory().available)


def free_of_groups() -> float | None:
    """The least that any control group from this process's own upwards leaves; None without a limit."""
    try:
        line = next(line for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    folder, free = GROUPS / line.removeprefix("0::/"), []
    for group in (folder, *folder.parents):
        try:
            limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
            stat = dict(row.split() for row in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max":  # files that are only cached are given back when memory is asked for
            free.append(float(limit) - float(used) + float(stat.get("inactive_file", 0)))
    return min(free, default=None)


def _free_of_old_group() -> float | None:
    try:
        limit, used = (
            int((OLD_GROUP / name).read_text()) for name in ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
    except (OSError, ValueError):
        return None
    return None if limit >= NO_LIMIT else float(limit - used)


def cores() -> int:
    """Cores that this process may use; a scheduler may give it fewer than there are."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def existing_part(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next((one for one in (folder, *folder.parents) if one.is_dir()), Path(folder.anchor))


def free_disk(folder: Path) -> int:
    """Bytes that can be written where a folder is or would be made. Raises: OSError."""
    return shutil.disk_usage(existing_part(folder)).free


def cannot_write(folder: Path) -> str:
    """Why no file can be made in a folder, or in the one that it would be made in; "" where one can.

    It is tried: what permissions say is not the whole truth on network drives and read-only mounts.
    """
    place = existing_part(folder)
    blocking = next((one for one in (folder, *folder.parents) if one.exists()), place)
    if not blocking.is_dir():
        return f"{blocking} is a file"
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".cellfeat-") as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return ""


def told(count: float) -> str:
    """Bytes for a reader, as in 3.2 GB (10^9 bytes)."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.{0 if count >= 100 * size else 1}f} {unit}"
    return f"{count:.0f} bytes"
