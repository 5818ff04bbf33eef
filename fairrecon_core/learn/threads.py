"""Work on many images at once, of which the result depends neither on the number of threads nor on that of images."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch


def side_by_side(work: Callable, parts: Iterable) -> list:
    """`[work(part) for part in parts]`, on as many threads as torch has, each with a single one.

    Small images keep several threads busy this way, and no part's result depends on their number.
    """
    n_threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(n_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, parts))
    finally:
        torch.set_num_threads(n_threads)


def equal_chunks(n: int, size: int) -> list[list[int]]:
    """Rows 0 to n - 1 in chunks of always `size`; the last row is repeated to fill the last chunk.

    What a network makes of an image can depend, in the last bits, on the size of the batch, so that size is fixed.
    """
    return [[min(row, n - 1) for row in range(start, start + size)] for start in range(0, n, size)]
