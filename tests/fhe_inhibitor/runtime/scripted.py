"""A real HTTP server on loopback that answers as a test says: for what a good server never does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Request, Response


class Scripted:
    """Answers `METHOD /path` with what `answers` holds, each in turn, the last one for ever.

    An answer is a Response, or a function of the request. asked: headers of all requests.
    """

    def __init__(self) -> None:
        self.answers: dict[str, list[Response | Callable[[Request], Response]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.url = ""

    async def answer(self, request: Request) -> Response:
        name = f"{request.method} {request.url.path.removeprefix('/v1')}"
        self.asked.append((name, dict(request.headers)))
        await request.body()
        if name not in self.answers:
            return refusal(404, "not_found")
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return answer if isinstance(answer, Response) else answer(request)

    def count(self, name: str) -> int:
        """Return how often something was asked."""
        return sum(asked == name for asked, _ in self.asked)


def refusal(status: int, code: str, message: str = "no", **headers: str) -> Response:
    """Return an answer that refuses."""
    content = f'{{"error": "{code}", "message": "{message}"}}'
    return Response(content, status, {k.replace("_", "-"): v for k, v in headers.items()})


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """Run a scripted server in a thread."""
    scripted = Scripted()
    app = FastAPI()
    app.add_route("/{path:path}", scripted.answer, ["GET", "POST", "PATCH", "DELETE"])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    scripted.url = f"http://127.0.0.1:{port}"
    yield scripted
    server.should_exit = True
    thread.join()
