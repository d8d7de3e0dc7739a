"""Videos read by several processes, handed over in the order asked; one that takes its process down is only broken.

Source: ours (a decoder that crashes on one file must not end a run over a hundred thousand).
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from vxlpro_jax.data.video_records import VideoError

Read = TypeVar("Read")
AHEAD = 2  # videos per worker that are read, or wait to be taken: bounds the memory
CRASHED = "reading it ends the process that reads it (a fault in the decoder, or not enough memory)"


def read_in_order(
    paths: Sequence[str], read: Callable[[str], Read], workers: int
) -> Iterator[tuple[str, Read | VideoError]]:
    """(path, read(path)) for every path, in order, or the VideoError that `read` raised.

    workers: processes, into which `read` must be importable; 0 reads here and now, and dies with a decoder that dies.
    """
    if workers == 0:
        for path in paths:
            yield path, _read_or_error(read, path)
        return
    waiting, pending = deque(paths), deque[tuple[str, Future]]()
    pool = _new_pool(workers)
    try:
        while waiting or pending:
            try:
                while waiting and len(pending) < AHEAD * workers:
                    pending.append((waiting[0], pool.submit(_read_or_error, read, waiting[0])))
                    waiting.popleft()
                result = pending[0][1].result()
            except BrokenProcessPool:
                # Nobody knows which of those under way it was: the first is read alone, the rest begin again.
                pool.shutdown(cancel_futures=True)
                waiting.extendleft(path for path, _ in reversed(pending))
                pending.clear()
                path = waiting.popleft()
                yield path, _read_alone(read, path)
                pool = _new_pool(workers)
                continue
            path, _ = pending.popleft()
            yield path, result
    finally:
        pool.shutdown(cancel_futures=True)


def _read_alone(read: Callable[[str], Read], path: str) -> Read | VideoError:
    with _new_pool(1) as pool:
        try:
            return pool.submit(_read_or_error, read, path).result()
        except BrokenProcessPool:
            return VideoError(path, CRASHED)


def _new_pool(workers: int) -> ProcessPoolExecutor:
    # Spawned: the caller's process may hold threads (jax does), with which a fork can hang.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _read_or_error(read: Callable[[str], Read], path: str) -> Read | VideoError:
    try:
        return read(path)
    except VideoError as error:
        return error
