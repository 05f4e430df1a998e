"""The routes: OpenAI's chat and completions, models, health, metrics, and a page to talk to the models.

body --> prompts as ids, settings --> requests --> the engine's thread
                                                      |
whole answer, or server-sent events  <-- readers <----+
"""

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lumi.serving.answer_forms import AnswerReader, ChatForm, CompletionForm
from lumi.serving.answer_response import AnswerResponse
from lumi.serving.api_error import ApiError
from lumi.serving.bodies import BodyT, ChatBody, CompletionBody, read_body
from lumi.serving.guard import LOOPBACK_NAMES, Guard
from lumi.serving.keys import Keys
from lumi.serving.served_model import ServedModel
from lumi.serving.service import Service

_PAGE = Path(__file__).parent / "page.html"
_COMPLETION_TOKENS = 16  # OpenAI's default
_BODIES: dict[str, type[BaseModel]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}


def create_app(
    service: Service, keys: Keys | None = None, *, hosts: Collection[str] = LOOPBACK_NAMES, logs: bool = False
) -> FastAPI:
    """Return the app; its lifespan starts and stops the engines.

    Args:
        service: the models.
        keys: that are let in; none: everyone.
        hosts: names by which it may be asked, where it is bound to this machine alone; none: any.
        logs: print a line for each request.
    """

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.stop()

    app = FastAPI(
        title="Lumi-Lab",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        responses={"default": {"description": "OpenAI's error body"}},
        exception_handlers={ApiError: _tell_api_error, HTTPException: _tell_http_exception},
    )
    _add_service_routes(app, service)
    _add_answer_routes(app, service)
    _describe_bodies(app)
    routes = frozenset(route.path for route in app.routes if isinstance(route, Route))
    app.add_middleware(Guard, service=service, keys=keys or Keys(), hosts=hosts, routes=routes, logs=logs)
    return app


def _add_service_routes(app: FastAPI, service: Service) -> None:
    page = _page()

    @app.get("/", include_in_schema=False)
    async def show_page() -> Response:
        return page

    @app.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @app.get("/ready")
    async def ready() -> Response:
        service.check_ready()
        return JSONResponse({"status": "ready"})

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def list_models() -> Response:
        return JSONResponse({"object": "list", "data": [_described(model) for model in service.models.values()]})

    @app.get("/v1/models/{model:path}")
    async def get_model(model: str) -> Response:
        return JSONResponse(_described(service.model(model)))


def _add_answer_routes(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await _read(request, ChatBody)
        model = service.model(body.model)
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        service.check_choices(body.n or 1)
        prompts = [model.chat_prompt([message.message() for message in body.messages])]
        asked = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        settings = body.settings(
            service.new_tokens(asked, model.context), model.end_ids, (body.top_logprobs or 0) if body.logprobs else None
        )
        choices = service.requests(model, prompts, settings, num_choices=body.n or 1, param="messages")
        readers = [AnswerReader(index, request, strips=True) for index, request in enumerate(choices)]
        return AnswerResponse(service, model, readers, ChatForm(model.tokenizer), body)

    @app.post("/v1/completions")
    async def complete(request: Request) -> Response:
        body = await _read(request, CompletionBody)
        model = service.model(body.model)
        if body.echo and body.logprobs is not None:
            raise ApiError(400, "the logprobs of a prompt are not offered: leave out echo or logprobs", param="echo")
        service.check_choices(len(body.prompt) * (body.n or 1))
        prompts = [model.text_prompt(prompt) for prompt in body.prompt]
        settings = body.settings(service.new_tokens(body.max_tokens, _COMPLETION_TOKENS), model.end_ids, body.logprobs)
        choices = service.requests(model, prompts, settings, num_choices=body.n or 1, param="prompt")
        readers = [
            AnswerReader(index, request, before=model.text(body.prompt[index // (body.n or 1)]) if body.echo else "")
            for index, request in enumerate(choices)
        ]
        return AnswerResponse(service, model, readers, CompletionForm(model.tokenizer), body)


async def _read(request: Request, kind: type[BodyT]) -> BodyT:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # a page of another site may send anything else here without asking
        raise ApiError(415, "send the body with Content-Type: application/json", code="wrong_content_type")
    return read_body(kind, await request.body())


def _describe_bodies(app: FastAPI) -> None:
    """Put the bodies into the OpenAPI schema; they are read by `read_body`, which FastAPI does not look into."""
    made = app.openapi()
    kinds: list[tuple[type[BaseModel], JsonSchemaMode]] = [(kind, "validation") for kind in _BODIES.values()]
    _, definitions = models_json_schema(kinds, ref_template="#/components/schemas/{model}")
    made.setdefault("components", {})["schemas"] = definitions["$defs"]
    for path, kind in _BODIES.items():
        schema = {"$ref": f"#/components/schemas/{kind.__name__}"}
        made["paths"][path]["post"]["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }


def _described(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "lumi",
        "lumi": {
            "context": model.context,
            "chats": model.template is not None,
            "parameters": model.num_parameters,
        },
    }


def _page() -> HTMLResponse:
    """Return the page; its policy lets in what it has in itself, by hash, and requests to this server."""
    text = _PAGE.read_text(encoding="utf8")
    policy = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    for kind in ("script", "style"):
        inside = re.findall(rf"<{kind}[^>]*>(.*?)</{kind}>", text, flags=re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in inside]
        policy += f"; {kind}-src " + (" ".join(f"'sha256-{value}'" for value in hashes) or "'none'")
    return HTMLResponse(text, headers={"content-security-policy": f"{policy}; frame-ancestors 'none'"})


async def _tell_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _tell_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    found = "no such route" if error.status_code == 404 else str(error.detail).lower()
    response = ApiError(error.status_code, f"{request.method} {request.url.path:.200}: {found}").response()
    response.headers.update(error.headers or {})
    return response
