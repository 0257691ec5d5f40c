"""The web application: KServe v2 routes, `/predict` and `/metrics`, every error as `{"error": …}`.

No postponed annotations in this module: FastAPI reads the annotations of the handlers, and they name classes that are
imported inside functions, because the extra `serve` may be missing.
"""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ttl_deploy import __version__
from ttl_deploy.serve import kserve
from ttl_deploy.serve.gate import Gate, Reply
from ttl_deploy.serve.metrics import Metrics
from ttl_deploy.serve.model import VERSION, ServedModel
from ttl_deploy.serve.multipart import file_of
from ttl_deploy.serve.request_error import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_CLOSED = 499
"""Status that is counted when the client went away before the answer."""


class Application:
    """What the handlers share.

    Args:
        model: Who answers.
        gate: What bounds the requests.

    Attributes:
        ready: Whether the server takes requests; false while it shuts down.
    """

    def __init__(self, model: ServedModel, gate: Gate) -> None:
        self.model = model
        self.gate = gate
        self.metrics = Metrics(model, lambda: gate.in_flight)
        self.ready = True

    def build(self) -> "FastAPI":
        """The routes."""
        from fastapi import FastAPI

        # The interactive pages would load scripts from the internet.
        app = FastAPI(title="ttl-deploy", version=__version__, docs_url=None, redoc_url=None)
        self._add_errors(app)
        self._add_state(app)
        self._add_models(app)
        self._add_answers(app)
        return app

    def _add_errors(self, app: "FastAPI") -> None:
        from fastapi import Request
        from starlette.exceptions import HTTPException

        async def explain(request: Request, error: Exception) -> Any:
            assert isinstance(error, HTTPException)
            return _error(f"{request.method} {request.url.path}: {error.detail}", error.status_code, error.headers)

        app.add_exception_handler(HTTPException, explain)

    def _add_state(self, app: "FastAPI") -> None:
        from fastapi import Response

        @app.get("/v2/health/live")
        async def live() -> dict[str, bool]:
            return {"live": True}

        @app.get("/v2/health/ready")
        async def ready() -> Any:
            return _json({"ready": self.ready}, 200 if self.ready else 503)

        @app.get("/v2")
        async def server() -> dict[str, Any]:
            return {"name": "ttl-deploy", "version": __version__, "extensions": ["binary_tensor_data"]}

        @app.get("/metrics")
        async def metrics() -> Any:
            content, kind = self.metrics.text()
            return Response(content, media_type=kind)

    def _add_models(self, app: "FastAPI") -> None:
        @app.get("/v2/models/{name}")
        @app.get("/v2/models/{name}/versions/{version}")
        async def metadata(name: str, version: str = VERSION) -> Any:
            return self._unknown(name, version) or _json(kserve.model_metadata(self.model))

        @app.get("/v2/models/{name}/ready")
        @app.get("/v2/models/{name}/versions/{version}/ready")
        async def model_ready(name: str, version: str = VERSION) -> Any:
            facts = {"name": name, "ready": self.ready}
            return self._unknown(name, version) or _json(facts, 200 if self.ready else 503)

    def _add_answers(self, app: "FastAPI") -> None:
        from fastapi import Request

        @app.post("/v2/models/{name}/infer")
        @app.post("/v2/models/{name}/versions/{version}/infer")
        async def infer(request: Request, name: str, version: str = VERSION) -> Any:
            length = request.headers.get(kserve.LENGTH_HEADER)
            refused = self._unknown(name, version)
            return refused or await self._answer(request, "infer", lambda body: self._infer(body, length))

        @app.post("/predict")
        async def predict(request: Request) -> Any:
            kind = request.headers.get("content-type", "")
            return await self._answer(request, "predict", lambda body: self._predict(body, kind))

    def _infer(self, body: bytes, length: str | None) -> Reply:
        content, json_length = kserve.infer(self.model, body, length)
        if json_length is None:
            return Reply(content)
        return Reply(content, "application/octet-stream", {kserve.LENGTH_HEADER: str(json_length)})

    def _predict(self, body: bytes, kind: str) -> Reply:
        image = file_of(body, kind) if kind.lower().startswith("multipart/form-data") else body
        answer = self.model.of_images([image])
        probabilities = dict(zip(self.model.classes, answer.probabilities[0].tolist(), strict=True))
        content = {"model": self.model.name, "label": answer.labels[0], "probabilities": probabilities}
        return Reply(json.dumps(content).encode())

    async def _answer(self, request: "Request", endpoint: str, compute: Callable[[bytes], Reply]) -> Any:
        from fastapi import Response
        from starlette.requests import ClientDisconnect

        start, status = time.perf_counter(), 200
        try:
            _refuse_encoding(request)
            reply = await self.gate.answer(request.headers.get("content-length"), request.stream(), compute)
            return Response(reply.body, media_type=reply.content_type, headers=reply.headers)
        except RequestError as error:
            status = error.status
            return _error(str(error), status, error.headers)
        except ClientDisconnect:
            status = _CLOSED
            return Response(status_code=status)
        finally:
            self.metrics.record(endpoint, status, time.perf_counter() - start)

    def _unknown(self, name: str, version: str) -> Any:
        """The refusal of another model or version, or None."""
        if name == self.model.name and version == VERSION:
            return None
        return _error(f"unknown model {name!r:.80} version {version!r:.20}; this is {self.model.name} {VERSION}", 404)


def _refuse_encoding(request: "Request") -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise RequestError(f"content encoding {encoding!r:.40} is not supported; send the body as it is", 415)


def _json(content: Any, status: int = 200) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse(content, status)


def _error(message: str, status: int, headers: Any = None) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": message}, status, headers)
