"""Kernel matrices from one matrix of inner products, and the memory that they may take."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from mmap import ACCESS_COPY, mmap
from pathlib import Path

import numpy as np

from cellfeat_classifiers.threads import in_threads

KERNELS = ("linear", "poly", "rbf")  # those that inner products and the rows' own squares give
MEMORY_SHARE = 0.6  # of the memory that is free: what a matrix may take
BLOCK = 488  # rows and columns at a time: 1.8 MiB, and no power of two, whose columns would share few lines of cache


class InnerProducts:
    """Keeps the last X Xᵀ, for the next kernel that is fitted on the same rows."""

    def __init__(self) -> None:
        self._rows: np.ndarray | None = None
        self._products: np.ndarray | None = None

    def of(self, rows: np.ndarray) -> np.ndarray | None:
        """(n, n) inner products of (n, D) float64 rows; None where memory does not suffice. Read, and not changed."""
        if self._rows is None or not np.array_equal(self._rows, rows):
            self.forget()
            if not fits(len(rows)):
                return None
            self._rows, self._products = rows, _symmetric(rows, None, lambda products, *_: products)
        return self._products

    def forget(self) -> None:
        self._rows = self._products = None


_shared: ContextVar[InnerProducts | None] = ContextVar("cellfeat_inner_products", default=None)


@contextmanager
def shared_inner_products() -> Iterator[InnerProducts]:
    """Support vector machines that are fitted inside, one after another on the same rows, share their inner products.

    It costs a second matrix of n x n float64 while a polynomial or Gaussian one is fitted. The matrix goes with the
    block. Other threads share nothing.
    """
    holder = InnerProducts()
    token = _shared.set(holder)
    try:
        yield holder
    finally:
        _shared.reset(token)
        holder.forget()


def kernel_matrix(
    rows: np.ndarray, kernel: str, gamma: float = 1.0, coef0: float = 0.0, degree: int = 3
) -> np.ndarray | None:
    """(n, n) float64 kernel values of (n, D) float64 rows with each other; None where memory does not suffice."""
    holder = _shared.get()
    shared = None if holder is None else holder.of(rows)
    if kernel == "linear" and shared is not None:
        return shared
    if shared is not None and holder is not None and not fits(len(rows)):
        shared = holder.forget()  # its matrix takes the only room that there is
    if not fits(len(rows)):
        return None
    squares = np.einsum("nd,nd->n", rows, rows)

    def values(products: np.ndarray, part: slice, other: slice) -> np.ndarray:
        return apply_kernel(products, kernel, gamma, coef0, degree, squares[part], squares[other])

    found = _symmetric(rows, shared, values)
    if kernel == "rbf":
        np.fill_diagonal(found, 1.0)
    return found


def apply_kernel(
    products: np.ndarray,
    kernel: str,
    gamma: float,
    coef0: float,
    degree: int,
    left: np.ndarray,
    right: np.ndarray,
) -> np.ndarray:
    """(m, n) inner products, which are overwritten, to kernel values; left (m,), right (n,): the rows' own squares."""
    if kernel == "poly":
        products *= gamma
        products += coef0
        return _power(products, degree)
    if kernel == "rbf":
        products *= -2.0
        products += left[:, None]
        products += right
        np.maximum(products, 0.0, out=products)  # of equal rows, rounding may leave less than nothing
        products *= -gamma
        np.exp(products, out=products)
    return products


def _power(values: np.ndarray, degree: int) -> np.ndarray:
    """By squaring, in libsvm's order of products, so that rounding is libsvm's."""
    result = None
    while degree > 0:
        if degree % 2:
            result = values.copy() if result is None else np.multiply(result, values, out=result)
        degree //= 2
        if degree:
            values *= values
    return np.ones_like(values) if result is None else result


def _symmetric(rows: np.ndarray, products: np.ndarray | None, values: Callable[..., np.ndarray]) -> np.ndarray:
    """(n, n) values of inner products, exactly symmetric: half is computed, in all cores, and copied to the other."""
    from threadpoolctl import threadpool_limits

    n = len(rows)
    found = _matrix(n)

    def fill(begin: int) -> None:
        mine = slice(begin, min(begin + BLOCK, n))
        for start in range(0, begin + 1, BLOCK):
            other = slice(start, min(start + BLOCK, n))
            given = rows[mine] @ rows[other].T if products is None else products[mine, other].copy()
            block = values(given, mine, other)
            if start == begin:
                block = np.tril(block) + np.tril(block, -1).T
            found[mine, other] = block
            found[other, mine] = block.T

    with threadpool_limits(1, user_api="blas"):  # a thread per core fills blocks; BLAS would start its own in each
        in_threads(fill, reversed(range(0, n, BLOCK)))  # the last are the longest
    return found


def _matrix(n: int) -> np.ndarray:
    """(n, n) float64 of undefined values, straight from the system, which gets the memory back at once.

    NumPy asks for huge pages: a virtual machine gave these at 2.7 s per GiB, and ordinary ones at 0.6.
    """
    private = {"access": ACCESS_COPY} if os.name == "posix" else {}  # shared memory, the default, is slower
    return np.frombuffer(mmap(-1, 8 * n * n, **private)).reshape(n, n)


def fits(n: int) -> bool:
    """Whether there is room for one more matrix of n x n float64."""
    return 8 * n * n <= MEMORY_SHARE * free_memory()


def free_memory() -> float:
    """Bytes that this process may still take, as far as the system tells: of the machine and of its control group."""
    return min(_free_of_machine(), _free_of_group())


def _free_of_machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        import psutil
    except ImportError:
        # All that there is: what others hold is not told without psutil.
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return 0.5 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else 4.0 * 2**30
    return float(psutil.virtual_memory().available)


def _free_of_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """What containers and job schedulers leave: the least of the limits from this process's group upwards."""
    free = float("inf")
    try:
        place = next(line for line in own.read_text().splitlines() if line.startswith("0::")).removeprefix("0::/")
    except (OSError, StopIteration):
        return free
    folder = root / place
    for group in (folder, *folder.parents):
        try:
            limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        if limit != "max":
            free = min(free, float(limit) - float(used) + float(stat.get("inactive_file", 0)))
    return free
