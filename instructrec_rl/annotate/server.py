"""The annotation page's server: a few JSON calls around a `Session`, and the page's own files."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from instructrec_rl.annotate.connections import Connections, counted_protocol
from instructrec_rl.annotate.guard import Bucket, Guard, is_loopback
from instructrec_rl.annotate.keys import MAX_NAME, Keys
from instructrec_rl.annotate.limits import MAX_RATIONALE, MAX_RESPONSES
from instructrec_rl.annotate.selection import Question
from instructrec_rl.annotate.session import Session, WriteError
from instructrec_rl.core import InputError, Item
from instructrec_rl.core.inert import printable

if TYPE_CHECKING:
    import uvicorn

HERE = Path(__file__).resolve().parent / "page"
FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "answers.js": ("answers.js", "text/javascript; charset=utf-8"),
    "outbox.js": ("outbox.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME, pattern=r"\S")]
RETRY_S = 2  # seconds after which an answer that could not be written is to be sent again
Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{8,64}$")]

log = logging.getLogger(__name__)


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Asks(_Body):
    """Who asks for the next question of a kind, and the key of one that is skipped."""

    annotator: Name
    mode: Annotated[str, Field(max_length=20)]
    skip: Annotated[str | None, Field(max_length=64)] = None


class Answer(_Body):
    """An answer, whole: it says what was asked, so that a server that was started anew can take it."""

    id: Id
    annotator: Name
    env: Annotated[str, Field(max_length=200)]
    mode: Annotated[str, Field(max_length=20)]
    instruction: str
    responses: Annotated[list[str], Field(min_length=1, max_length=MAX_RESPONSES)]
    value: bool | int | str | Annotated[list[int], Field(max_length=MAX_RESPONSES)]
    rationale: Annotated[str | None, Field(max_length=MAX_RATIONALE)] = None
    confidence: Annotated[float | None, Field(ge=0, le=1)] = None


class Undo(_Body):
    """An answer to take back; `id` is that of the line that does it."""

    id: Id
    annotator: Name
    target: Annotated[str, Field(max_length=200)]


class Who(_Body):
    """An annotator."""

    annotator: Name


class Words(_Body):
    """What an item should hold, and the text of one that is not looked for."""

    words: Annotated[str, Field(max_length=500)]
    besides: str = ""


def make_app(
    session: Session,
    token: str | Keys = "",
    loopback: bool = True,
    bucket: Bucket | None = None,
    connections: Connections | None = None,
) -> FastAPI:
    """The application, behind its guard. token: for everybody, "" for none; or the keys of several people."""
    # build the application behind its guard
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    keys = Keys(token) if isinstance(token, str) else token
    app.add_middleware(Guard, keys=keys, loopback=loopback, bucket=bucket, connections=connections)
    _add_errors(app)
    _add_files(app)
    _add_answers(app, session)

    # what the page asks
    @app.post("/api/about")
    def about(request: Request) -> dict[str, Any]:
        person = request.scope["person"]
        return {
            "env": session.spec.name,
            "modes": session.modes,
            "you": person,
            "annotators": [person] if person else session.annotators,
            "target": session.target,
            "out": str(session.out),
        }

    @app.post("/api/next")
    def next_question(asks: Asks) -> dict[str, Any]:
        question = session.next(asks.annotator, asks.mode, asks.skip)
        return {"question": _question(session, question), **_progress(session, asks.annotator)}

    @app.post("/api/progress")
    def progress(who: Who) -> dict[str, Any]:
        return _progress(session, who.annotator)

    @app.post("/api/items")
    def items(wanted: Words) -> dict[str, Any]:
        matches, total = session.find_items(wanted.words, wanted.besides)
        return {"items": [_item(item) | {"text": item.text} for item in matches], "total": total}

    return app


def _add_answers(app: FastAPI, session: Session) -> None:
    @app.post("/api/answer")
    def answer(given: Answer) -> dict[str, Any]:
        if given.env != session.spec.name:
            raise InputError(f"env: this page was opened for {given.env}; here {session.spec.name} is annotated")
        question = Question(given.mode, given.instruction, tuple(given.responses))
        more = {"rationale": given.rationale, "confidence": given.confidence}
        saved = session.save(given.id, given.annotator, question, given.value, shown=True, **more)
        return {"saved": saved, **_progress(session, given.annotator)}

    @app.post("/api/undo")
    def undo(asked: Undo) -> dict[str, Any]:
        question = session.undo(asked.id, asked.annotator, asked.target)
        return {"saved": asked.id, "question": _question(session, question), **_progress(session, asked.annotator)}


def _add_files(app: FastAPI) -> None:
    def add(path: str, name: str, media_type: str) -> None:
        @app.api_route(f"/{path}", methods=["GET", "HEAD"])
        def file() -> FileResponse:
            return FileResponse(HERE / name, media_type=media_type)

    for path, (name, media_type) in FILES.items():
        add(path, name, media_type)


def _add_errors(app: FastAPI) -> None:
    """Every failure is one line under `error`. 422: this will never be taken; 503: it may be later."""

    @app.exception_handler(WriteError)
    def refused_by_disk(_: Request, error: WriteError) -> JSONResponse:
        log.error("%s", printable(str(error)).replace("\n", " "))
        again = {"Retry-After": str(RETRY_S)}
        return JSONResponse({"error": f"The server could not write: {error.reason}."}, 503, again)

    @app.exception_handler(InputError)
    def wrong(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 422)

    @app.exception_handler(RequestValidationError)
    def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return JSONResponse({"error": f"{where or 'body'}: {first['msg']}"}, 422)

    @app.exception_handler(HTTPException)
    def other(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def _progress(session: Session, annotator: str) -> dict[str, Any]:
    progress, last = session.progress(annotator)
    return {"progress": vars(progress), "last": last}


def _question(session: Session, question: Question | None) -> dict[str, Any] | None:
    if question is None:
        return None
    return {
        "key": question.key,
        "env": session.spec.name,
        "mode": question.mode,
        "choose": session.chooses,
        "instruction": question.instruction,
        "responses": [_response(session, text) for text in question.responses],
    }


def _response(session: Session, text: str) -> dict[str, Any]:
    item = session.item(text)
    return {"text": text, "item": None if item is None else _item(item)}


def _item(item: Item) -> dict[str, Any]:
    return {"name": item.name, "attributes": item.attributes}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises InputError where there is none to have."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"host={host} port={port}: cannot listen there: {reason.lower()}") from error


def address(listening: socket.socket, host: str, token: str) -> str:
    """The address to open: with the token, and with this machine's name where it listens on every interface."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{listening.getsockname()[1]}/" + (f"?token={token}" if token else "")


def serving(
    session: Session, host: str, token: str | Keys = "", connections: Connections | None = None
) -> uvicorn.Config:
    """The server, ready to run. It believes no header about who asks (X-Forwarded-For): whoever asks could write it."""
    import uvicorn

    connections = connections or Connections()
    return uvicorn.Config(
        make_app(session, token, is_loopback(host), connections=connections),
        http=counted_protocol(connections),
        ws="none",
        log_level="error",
        use_colors=False,  # its lines hold addresses from outside, and are made printable like all others
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
    )


def serve(session: Session, listening: socket.socket, host: str, keys: Keys) -> None:
    """Serve until interrupted, which is raised again as KeyboardInterrupt."""
    import uvicorn

    uvicorn.Server(serving(session, host, keys)).run(sockets=[listening])
