"""The device process: loads one version, then scores batches until its worker goes.

loading -> ready -> (batch -> scores)*      ends with the socket, with a version that cannot be used, or killed
"""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue

from scorequeue import logs
from scorequeue.errors import DeviceSickError, ExitCode, ScorequeueError
from scorequeue.logs import fields
from scorequeue.registry import Registry
from worker.backends import DeviceFullError, DeviceLostError, PaddedBatch, Running
from worker.child import connect_to_parent
from worker.device.loading import LoadedModel, load_model
from worker.device.messages import BatchFailed, CheckGolden, Loaded, LoadRequest, Scored
from worker.device.sweep import find_budget

STARTED_AT = time.monotonic()

log = logging.getLogger(__name__)

Begun = tuple[int, Running | Exception | CheckGolden]
"""Rows of a batch, and what waits for its scores or why it did not begin; or a check to make in its turn."""


def main() -> None:
    """Run a device process."""
    connection = connect_to_parent()
    request: LoadRequest = connection.recv()
    logs.configure(request.log_level, request.log_format)  # type: ignore[arg-type]  # as in the worker's settings
    try:
        model, loaded = _load(request)
    except ScorequeueError as error:
        connection.send(error)
        return
    connection.send(loaded)
    begun: SimpleQueue[Begun] = SimpleQueue()
    threading.Thread(target=_read, args=(model, connection, begun), name="reader", daemon=True).start()
    _serve(model, connection, begun)


def _load(request: LoadRequest) -> tuple[LoadedModel, Loaded]:
    registry, cache_dir = Registry(request.registry), request.cache_dir
    model = load_model(
        registry,
        request.version,
        backend=request.backend,
        device=request.device,
        dtype=request.dtype,
        cache_dir=cache_dir,
    )
    start_s = time.monotonic() - STARTED_AT
    backend = model.backend
    budget = request.token_budget or find_budget(
        backend, registry.path(request.version), cache_dir=cache_dir, otherwise=request.unmeasured_budget
    )
    budget, batch_s = model.warm_up(budget)
    return model, Loaded(
        backend=backend.name,
        device=backend.device,
        dtype=backend.dtype,
        depth=backend.depth,
        token_budget=budget,
        start_s=start_s,
        batch_s=batch_s,
        is_fast=backend.is_fast,
    )


def _read(model: LoadedModel, connection: Connection, begun: SimpleQueue[Begun]) -> None:
    """Give batches to the device as they come; the worker sends no more than it takes at once.

    The other thread cannot do that: it waits for the oldest batch while a stream may be free (torch on two cores lost a
    fifth of its speed).
    """
    while True:
        try:
            request: PaddedBatch | CheckGolden = connection.recv()
        except (EOFError, OSError):
            os._exit(ExitCode.DONE)  # the worker has gone; whatever the device still does is for nobody
        if isinstance(request, CheckGolden):
            begun.put((0, request))
            continue
        try:
            begun.put((request.rows, model.backend.begin(request)))
        except Exception as error:
            begun.put((request.rows, error))


def _serve(model: LoadedModel, connection: Connection, begun: SimpleQueue[Begun]) -> None:
    """Answer in the order of the requests."""
    while True:
        rows, running = begun.get()
        if isinstance(running, CheckGolden):  # asked only while no batch runs
            try:
                model.check_golden()
                connection.send(running)
            except DeviceSickError as error:
                connection.send(error)
        else:
            connection.send(_answer(model, rows, running))


def _answer(model: LoadedModel, rows: int, running: Running | Exception) -> Scored | BatchFailed:
    try:
        if isinstance(running, Exception):
            raise running
        return Scored(model.checked(running(), rows=rows))
    except DeviceLostError as error:
        log.error("the device can be used no more", extra=fields("device_unusable", error=str(error)))
        os._exit(ExitCode.UNEXPECTED)  # the worker starts a fresh process, and finds the row
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        is_memory = isinstance(error, DeviceFullError)
        # Its frames hold the batch's tensors, and the next batch needs the room.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        return BatchFailed(type(error).__name__, str(error), is_memory, trace)


if __name__ == "__main__":
    main()
