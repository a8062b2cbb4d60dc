"""Independent pieces of work side by side: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from chopgrad_ns.errors import UserError

Outcome = tuple[int, Any]
"""Index of a piece of work, and its result or the UserError that it ended in."""
ATTEMPTS = 3
"""Times that a piece of work is tried whose worker dies over it."""


def run_side_by_side(work: Callable[[Any], Any], pieces: Sequence, workers: int, ray: str | None = None) -> Iterator[Outcome]:
    """Do `work` on each piece, and yield outcomes as they come.

    Work is done in this process with one worker, else in spawned ones with a thread each, or as tasks of the Ray cluster at
    the address `ray` ("auto" for the one on this machine), which must have this package installed. A piece whose worker dies
    is done again, by another one: so work must find and keep what it had finished. A UserError is an outcome, and so is a
    piece that kills three workers; any other exception ends everything.

    Raises:
        UserError: where there is no such cluster.
    """
    if ray is not None:
        yield from _on_ray(work, pieces, ray)
    elif workers <= 1 or len(pieces) <= 1:
        yield from ((index, _outcome(work, piece)) for index, piece in enumerate(pieces))
    else:
        yield from _in_processes(work, pieces, workers)


def _outcome(work: Callable[[Any], Any], piece: Any) -> Any:
    try:
        return work(piece)
    except UserError as error:
        return error


def _in_processes(work, pieces: Sequence, workers: int) -> Iterator[Outcome]:
    waiting = dict(enumerate(pieces))
    while waiting:
        try:
            for index, result in _in_pool(work, waiting, workers):
                del waiting[index]
                yield index, result
        except BrokenProcessPool:
            # Which piece killed its worker is not told. It is among the first, which were at hand or next.
            for index in list(waiting)[: workers + 1]:
                yield index, _alone(work, waiting.pop(index))


def _alone(work, piece: Any) -> Any:
    """The outcome of a piece that may kill its worker, in a pool of its own."""
    for _ in range(ATTEMPTS):
        try:
            ((_, result),) = _in_pool(work, {0: piece}, 1)
            return result
        except BrokenProcessPool:
            continue
    return UserError(f"Its worker died {ATTEMPTS} times (out of memory?); give fewer --workers.")


def _in_pool(work, pieces: dict[int, Any], workers: int) -> Iterator[Outcome]:
    """Raises BrokenProcessPool when a worker dies."""
    others = set(multiprocessing.active_children())
    # Spawned, since a forked process must not use OpenMP or CUDA again.
    pool = ProcessPoolExecutor(min(workers, len(pieces)), mp_context=multiprocessing.get_context("spawn"),
                               initializer=_become_worker, initargs=(os.getpid(),))
    try:
        futures = {pool.submit(_outcome, work, piece): index for index, piece in pieces.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        # When the work is ended early (Ctrl-C), what runs is not waited for.
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _become_worker(parent: int) -> None:
    """One thread; Ctrl-C is the parent's to handle; and none lives on when the parent was killed."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch is imported
    if "torch" in sys.modules:  # by the parent's main module, which a spawned process imports first
        sys.modules["torch"].set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _on_ray(work, pieces: Sequence, address: str) -> Iterator[Outcome]:
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed; pip install 'chopgrad-ns[ray]', here and on each "
                        "node.") from error
    try:
        if address != "auto":  # Ray itself would wait for minutes
            host, port = address.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"There is no Ray cluster at {address} ({str(error).splitlines()[0]}); start one with ray start "
                        "--head, or leave --ray out.") from error
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(_outcome)
        running = {task.remote(work, piece): index for index, piece in enumerate(pieces)}
        while running:
            for finished in ray.wait(list(running))[0]:
                try:
                    result = ray.get(finished)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
                    result = UserError(f"Its worker died {ATTEMPTS} times ({type(error).__name__}).")
                yield running.pop(finished), result
    finally:
        ray.shutdown()
