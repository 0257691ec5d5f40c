"""The web application: KServe v2 routes, `/predict` and `/metrics`, every error as `{"error": …}`.

Besides the protocol itself there is what Triton's client asks for: the repository's index, the model's configuration
and its statistics.

No postponed annotations in this module: FastAPI reads the annotations of the handlers, and they name classes that are
imported inside functions, because the extra `serve` may be missing.
"""

import base64
import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ttl_deploy import __version__
from ttl_deploy.inputs.overlay import mask_file
from ttl_deploy.serve import encoding, kserve
from ttl_deploy.serve.access import OPEN_PATHS, Token
from ttl_deploy.serve.gate import Gate, Reply
from ttl_deploy.serve.metrics import ServerMetrics
from ttl_deploy.serve.model import VERSION, Answer, ServedModel
from ttl_deploy.serve.multipart import file_of
from ttl_deploy.serve.request_error import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, Response

_LOG = logging.getLogger("ttl_deploy.serve")

_EXTENSIONS = ["binary_tensor_data", "model_configuration", "statistics"]

_PREDICT = """One image: its bytes as the body, or one file in a `multipart/form-data` body. A form with several files
is refused with 400; send several images to `/v2/models/NAME/infer`. `Content-Encoding` may be `gzip` or `deflate`.
A model of masks answers with `mask`, a PNG of 0 and 255 as large as the image in base64, and `inside`, the share of the
image that is inside; its `label` says the share of what the network saw of it."""
_INFER = """KServe v2 inference, JSON or with Triton's binary tensors: give the preprocessed tensor, or `image`, the
contents of image files (base64 in JSON). `Content-Encoding` may be `gzip` or `deflate`."""
_METRICS = "Prometheus' text format. Where the server was started with a token, this needs it too."

_CLOSED = 499
"""Status that is counted when the client went away before the answer."""


class Application:
    """What the handlers share.

    Args:
        model: Who answers.
        gate: What bounds the requests.
        token: What every request but those for health must carry; None: nothing.

    Attributes:
        ready: Whether the server takes requests; false while it shuts down.
    """

    def __init__(self, model: ServedModel, gate: Gate, token: Token | None = None) -> None:
        self.model = model
        self.gate = gate
        self.token = token
        self.metrics = ServerMetrics(model, lambda: gate.in_flight)
        self.ready = True

    def build(self) -> "FastAPI":
        """The routes."""
        from fastapi import FastAPI

        # The interactive pages would load scripts from the internet.
        app = FastAPI(title="ttl-deploy", version=__version__, docs_url=None, redoc_url=None)
        if self.token is not None:
            app.add_middleware(_Guard, token=self.token)
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

        async def hide(request: Request, error: Exception) -> Any:
            _LOG.error("unforeseen %s: %s", type(error).__name__, " ".join(str(error).split())[:300])
            return _error("internal error; see the server's log", 500)

        app.add_exception_handler(HTTPException, explain)
        app.add_exception_handler(Exception, hide)

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
            return {"name": "ttl-deploy", "version": __version__, "extensions": _EXTENSIONS}

        @app.post("/v2/repository/index")
        async def index() -> Any:
            return _json(kserve.repository_index(self.model, ready=self.ready))

        @app.get("/metrics", description=_METRICS)
        async def metrics() -> Any:
            content, kind = self.metrics.text()
            return Response(content, media_type=kind)

    def _add_models(self, app: "FastAPI") -> None:
        # Before the paths that begin with a name, which would take `stats` for one.
        @app.get("/v2/models/stats")
        async def all_statistics() -> Any:
            return _json(kserve.model_statistics(self.model))

        @app.get("/v2/models/{name}")
        @app.get("/v2/models/{name}/versions/{version}")
        async def metadata(name: str, version: str = VERSION) -> Any:
            return self._unknown(name, version) or _json(kserve.model_metadata(self.model))

        @app.get("/v2/models/{name}/ready")
        @app.get("/v2/models/{name}/versions/{version}/ready")
        async def model_ready(name: str, version: str = VERSION) -> Any:
            facts = {"name": name, "ready": self.ready}
            return self._unknown(name, version) or _json(facts, 200 if self.ready else 503)

        @app.get("/v2/models/{name}/config")
        @app.get("/v2/models/{name}/versions/{version}/config")
        async def config(name: str, version: str = VERSION) -> Any:
            return self._unknown(name, version) or _json(kserve.model_config(self.model))

        @app.get("/v2/models/{name}/stats")
        @app.get("/v2/models/{name}/versions/{version}/stats")
        async def statistics(name: str, version: str = VERSION) -> Any:
            return self._unknown(name, version) or _json(kserve.model_statistics(self.model))

    def _add_answers(self, app: "FastAPI") -> None:
        from fastapi import Request

        @app.post("/v2/models/{name}/infer", description=_INFER)
        @app.post("/v2/models/{name}/versions/{version}/infer", description=_INFER)
        async def infer(request: Request, name: str, version: str = VERSION) -> Any:
            length = request.headers.get(kserve.LENGTH_HEADER)
            refused = self._unknown(name, version)
            return refused or await self._answer(request, "infer", lambda body: self._infer(body, length))

        @app.post("/predict", description=_PREDICT)
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
        said = self._mask(answer) if self.model.gives_masks else self._probabilities(answer)
        return Reply(json.dumps({"model": self.model.name, "label": answer.labels[0], **said}).encode())

    def _probabilities(self, answer: Answer) -> dict[str, Any]:
        return {"probabilities": dict(zip(self.model.classes, answer.probabilities[0].tolist(), strict=True))}

    def _mask(self, answer: Answer) -> dict[str, Any]:
        """The mask in the image's own size, and the share of that image that is inside."""
        (mask,) = self.model.whole_masks(answer)
        inside = dict.fromkeys(self.model.classes, float(mask.mean()))
        return {"inside": inside, "mask": base64.b64encode(mask_file(mask)).decode()}

    async def _answer(self, request: "Request", endpoint: str, compute: Callable[[bytes], Reply]) -> Any:
        from fastapi import Response
        from starlette.requests import ClientDisconnect

        start, status = time.perf_counter(), 200
        try:
            coding = request.headers.get("content-encoding", encoding.IDENTITY).strip().lower()
            encoding.refuse_unknown(coding)
            plain = self._decoding(coding, compute)
            reply = await self.gate.answer(request.headers.get("content-length"), request.stream(), plain)
            return Response(reply.body, media_type=reply.content_type, headers=reply.headers)
        except RequestError as error:
            status = error.status
            return _error(str(error), status, error.headers)
        except ClientDisconnect:
            status = _CLOSED
            return Response(status_code=status)
        finally:
            seconds = time.perf_counter() - start
            self.metrics.record(endpoint, status, seconds)
            self.model.statistics.record("success" if status == 200 else "fail", seconds)

    def _decoding(self, coding: str, compute: Callable[[bytes], Reply]) -> Callable[[bytes], Reply]:
        """`compute` for a compressed body; it is decompressed on the thread."""
        return lambda body: compute(encoding.decoded(body, coding, self.gate.limits.max_body))

    def _unknown(self, name: str, version: str) -> Any:
        """The refusal of another model or version, or None."""
        if name == self.model.name and version == VERSION:
            return None
        return _error(f"unknown model {name!r:.80} version {version!r:.20}; this is {self.model.name} {VERSION}", 404)


class _Guard:
    """Lets only requests with the token through to an ASGI application, before anything of their body is read."""

    def __init__(self, app: Any, token: Token) -> None:
        self._app = app
        self._token = token

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        given = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._token.opens(given):
            await self._app(scope, receive, send)
        else:
            headers = {"WWW-Authenticate": "Bearer"}
            await _error("send the header Authorization: Bearer TOKEN", 401, headers)(scope, receive, send)


def _json(content: Any, status: int = 200) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse(content, status)


def _error(message: str, status: int, headers: Any = None) -> "Response":
    from fastapi.responses import JSONResponse

    return JSONResponse({"error": message}, status, headers)
