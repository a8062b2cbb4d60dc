"""Independent pieces of work side by side: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from chopgrad_ns.errors import UserError

Outcome = tuple[int, Any]
"""Index of a piece of work, and its result or the UserError that it ended in."""
LOST_IN_A_ROW = 3
"""Times that workers may die, with nothing finished in between, before it is given up."""


def run_side_by_side(work: Callable[[Any], Any], pieces: Sequence, workers: int, ray: str | None = None) -> Iterator[Outcome]:
    """Do `work` on each piece, and yield outcomes as they come.

    Work is done in this process with one worker, else in spawned ones with a thread each, or as tasks of the Ray cluster at
    the address `ray` ("auto" for the one on this machine), which must have this package installed. A piece whose worker dies
    is done again, by another one: so work must find and keep what it had finished. A UserError is an outcome; any other
    exception ends everything.

    Raises:
        UserError: where workers die again and again, or there is no such cluster.
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
    waiting, lost = dict(enumerate(pieces)), 0
    others = set(multiprocessing.active_children())
    while waiting:
        # Spawned, since a forked process must not use OpenMP or CUDA again.
        pool = ProcessPoolExecutor(min(workers, len(waiting)), mp_context=multiprocessing.get_context("spawn"),
                                   initializer=_become_worker, initargs=(os.getpid(),))
        try:
            futures = {pool.submit(_outcome, work, piece): index for index, piece in waiting.items()}
            for future in as_completed(futures):
                result = future.result()
                del waiting[futures[future]]
                lost = 0
                yield futures[future], result
        except BrokenProcessPool as error:
            lost += 1
            if lost == LOST_IN_A_ROW:
                raise UserError(f"Workers died {lost} times in a row with {len(waiting)} of {len(pieces)} pieces of work left "
                                "(out of memory?); give fewer --workers.") from error
        finally:
            # When the work is ended early (Ctrl-C), what runs is not waited for.
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            pool.shutdown(cancel_futures=True)


def _become_worker(parent: int) -> None:
    """One thread; Ctrl-C is the parent's to handle; and none lives on when the parent was killed."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read when torch is imported, which comes later
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
        raise UserError("--ray needs Ray, which is not installed; pip install 'chopgrad-ns[ray]', here and on each node.") from error
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
        task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=LOST_IN_A_ROW)(_outcome)
        running = {task.remote(work, piece): index for index, piece in enumerate(pieces)}
        while running:
            for finished in ray.wait(list(running))[0]:
                try:
                    result = ray.get(finished)
                except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
                    result = UserError(f"its workers died {LOST_IN_A_ROW + 1} times ({type(error).__name__})")
                yield running.pop(finished), result
    finally:
        ray.shutdown()
