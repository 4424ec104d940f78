"""A model over HTTP: /predict, /health, /docs and a page for people. Requests that meet are predicted as one batch."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import os
import queue
import signal
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from PIL import Image
from starlette.requests import ClientDisconnect

from common.config.errors import UserError

Predictor = Any  # that of the room deploy
Sample = dict[str, Any]
Answer = dict[str, Any]
_FOLDER = Path(__file__).parent
_LARGEST_BATCH = 1 << 24  # values: larger inputs form smaller batches, which bounds the memory
_READERS = 4  # threads that decode pictures
# The pages ask for nothing but what they hold themselves and this server's answers.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)


@dataclass(frozen=True)
class Limits:
    """What a server accepts."""

    batch: int = 32
    """Inputs in a batch."""
    requests: int = 64
    """Requests at the same time; one more is refused with 503."""
    megabytes: float = 10.0
    """Size of a request."""
    megapixels: float = 16.0
    """Size of a picture, which may be far larger than its file."""
    seconds: float = 30.0
    """Time for a request to arrive, and then to be answered."""


class Batcher:
    """Predicts samples in a thread of its own: whatever has arrived while the last batch was computed is the next one.

    Args:
        predictor: The model and its task.
        size: Samples in a batch.
    """

    def __init__(self, predictor: Predictor, size: int):
        self._predictor, self._size = predictor, size
        self._queue: queue.SimpleQueue[tuple[Sample, Future] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batches")
        self._thread.start()

    def submit(self, sample: Sample) -> Future[Answer]:
        """Return the answer to come for a sample; the future raises a UserError if there is none."""
        future: Future[Answer] = Future()
        self._queue.put((sample, future))
        return future

    def close(self) -> None:
        """Answer what has been submitted, and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        item = self._queue.get()
        while item is not None:
            items, item = self._take(item)
            wanted = [(sample, future) for sample, future in items if future.set_running_or_notify_cancel()]
            if wanted:
                self._answer(wanted)
            item = self._queue.get() if item is _NOTHING else item

    def _take(self, first: tuple[Sample, Future]) -> tuple[list[tuple[Sample, Future]], Any]:
        """Return the items of a batch, and the one after them: None at the end, ``_NOTHING`` if none is there yet."""
        items, values = [first], _values(first[0])
        while len(items) < self._size:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None or values + _values(item[0]) > _LARGEST_BATCH:
                return items, item
            items.append(item)
            values += _values(item[0])
        return items, _NOTHING

    def _answer(self, items: list[tuple[Sample, Future]]) -> None:
        try:
            answers: list[Any] = self._predictor.predict([sample for sample, _ in items])
        except Exception as error:  # such as no memory; the thread must live on
            answers = [error] * len(items)
        for (_, future), answer in zip(items, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


_NOTHING = object()


def _values(sample: Sample) -> int:
    return sum(value.numel() for value in sample.values() if torch.is_tensor(value))


def make_app(predictor: Predictor, limits: Limits) -> FastAPI:
    """Return the application that serves a model."""
    batcher, readers = Batcher(predictor, limits.batch), ThreadPoolExecutor(_READERS, "reader")
    service = _Service(predictor, limits, batcher, readers)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        readers.shutdown()
        batcher.close()

    name = str(predictor.about.config.get("name", "model"))
    app = FastAPI(title=name, docs_url=None, redoc_url=None, lifespan=lifespan)
    pages = {"/": _page("page.html", predictor, limits), "/docs": _page("docs.html", predictor, limits)}
    for path, text in pages.items():
        app.get(path, include_in_schema=False)(_showing(text))
    app.get("/health")(service.health)
    app.post("/predict", openapi_extra={"requestBody": _body_of(predictor)})(service.predict)
    return app


class _Service:
    """What the application does at each address."""

    def __init__(self, predictor: Predictor, limits: Limits, batcher: Batcher, readers: ThreadPoolExecutor):
        self.predictor, self.limits, self.batcher, self.readers = predictor, limits, batcher, readers
        self.active = 0

    async def health(self) -> dict[str, Any]:
        """Tell that the server answers, what its model is given, its classes, and how many requests it works on."""
        facts = _facts(self.predictor, self.limits)
        return {"status": "ok", **facts, "device": str(self.predictor.device), "active": self.active}

    async def predict(self, request: Request) -> JSONResponse:
        """Predict one input: the body is the file or the text itself, or a form with it as ``file`` or ``text``."""
        if self.active >= self.limits.requests:
            raise HTTPException(503, "too many requests at the same time", {"Retry-After": "1"})
        self.active += 1
        try:
            data = await self._in_time(self._receive(request), 408, "the request took longer than")
            answer = await self._in_time(self._answer(data), 503, "the prediction took longer than")
        except UserError as error:
            raise HTTPException(422, str(error)) from None
        except ClientDisconnect:
            return JSONResponse({"detail": "the client has gone"}, 400)  # which nobody reads
        finally:
            self.active -= 1
        return JSONResponse({key: _as_text(value) for key, value in answer.items()})

    async def _in_time(self, work: Awaitable[Any], status: int, text: str) -> Any:
        try:
            return await asyncio.wait_for(work, self.limits.seconds)
        except TimeoutError:
            raise HTTPException(status, f"{text} {self.limits.seconds:g} seconds") from None

    async def _receive(self, request: Request) -> Any:
        """Return the input of a request: bytes, or text if the task accepts it."""
        most = int(self.limits.megabytes * 2**20)
        request = Request(request.scope, _limited(request.receive, most, self.limits))
        kind, text = request.headers.get("content-type", ""), self.predictor.task.accepts == "text"
        if not kind.startswith("multipart/form-data"):
            data = await request.body()
        else:
            async with request.form(max_files=1, max_fields=1, max_part_size=most) as form:
                field = form.get("file", form.get("text"))
                if field is None:
                    raise HTTPException(400, "expected a form with a field 'file' or 'text'")
                data = field.encode() if isinstance(field, str) else await field.read()
        if not data:
            raise HTTPException(400, "the request holds no input")
        return data.decode("utf-8", errors="replace") if text else data

    async def _answer(self, data: Any) -> Answer:
        source = io.BytesIO(data) if isinstance(data, bytes) else data
        sample = await asyncio.get_running_loop().run_in_executor(self.readers, self.predictor.read, source)
        return await asyncio.wrap_future(self.batcher.submit(sample))


def _limited(receive: Callable, most: int, limits: Limits) -> Callable:
    """Return a function that receives a request's parts, and raises if they are too large together.

    Up to ten times as much is received before, and forgotten: a client that is still sending does not read the answer.
    """
    seen = 0

    async def limited() -> Any:
        nonlocal seen
        while True:
            message = await receive()
            seen += len(message.get("body", b""))
            if seen <= most:
                return message
            if seen > 10 * most or not message.get("more_body"):
                text = f"the request is larger than {limits.megabytes:g} MB"
                raise HTTPException(413, text, {"Connection": "close"})

    return limited


def _as_text(value: Any) -> Any:
    return f"data:image/png;base64,{base64.b64encode(value).decode()}" if isinstance(value, bytes) else value


def _facts(predictor: Predictor, limits: Limits) -> dict[str, Any]:
    about, task = predictor.about, predictor.task
    facts = {"name": about.config.get("name", "model"), "task": type(task).__name__, "accepts": task.accepts}
    colors = [f"rgb{color}" for color in task.colors()]
    return facts | {"says": task.says(), "classes": about.classes, "colors": colors, "megabytes": limits.megabytes}


def _page(name: str, predictor: Predictor, limits: Limits) -> str:
    """Return a page with the facts that its script reads, and the model's name."""
    facts = _facts(predictor, limits)
    text = (_FOLDER / name).read_text(encoding="utf-8").replace("%NAME%", escape(str(facts["name"])))
    text = text.replace("%DATA%", "--data-binary @photo.jpg" if facts["accepts"] == "image" else "-d 'Once upon'")
    return text.replace("%FACTS%", json.dumps(facts).replace("<", "\\u003c"))


def _showing(text: str) -> Callable[[], Awaitable[HTMLResponse]]:
    async def show() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    return show


def _body_of(predictor: Predictor) -> dict[str, Any]:
    text = predictor.task.accepts == "text"
    schema = {"type": "string"} if text else {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"text" if text else "file": schema}}
    kind = "text/plain" if text else "image/*"
    return {"required": True, "content": {kind: {"schema": schema}, "multipart/form-data": {"schema": form}}}


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; raise a UserError if that is impossible."""
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0  # negative: an unknown host, whose text is that of getaddrinfo
        raise UserError(f"--host {host} --port {port}: {os.strerror(number) if number > 0 else error}") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or an answer's body waits 40 ms behind its head
    return listener


def serve(predictor: Predictor, host: str, port: int, limits: Limits) -> None:
    """Serve a model until SIGTERM or Ctrl-C; what has arrived by then is answered.

    Raises:
        UserError: The address cannot be listened at.
    """
    listener = listen(host, port)
    Image.MAX_IMAGE_PIXELS = int(limits.megapixels * 1e6)
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # Pillow's own error begins at twice the limit
    Image.init()
    with suppress(ValueError):
        Image.ID.remove("EPS")  # which Pillow lets another program read
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again when all is done
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # of a form that is none the client is told
    config = uvicorn.Config(
        make_app(predictor, limits),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=int(2 * limits.seconds) + 1,
    )
    print(f"serving on http://{host}:{listener.getsockname()[1]}, until Ctrl-C or SIGTERM", flush=True)
    uvicorn.Server(config).run([listener])
