"""What a client is told when its request is not answered: OpenAI's error body."""

from typing import Any

from starlette.responses import JSONResponse


class ApiError(Exception):
    """A refusal, or a failure of ours, in words that are fit for a client.

    Args:
        status: of HTTP.
        message: what is wrong, and what to do about it.
        param: the field of the request that is meant.
        code: a word for programs.
        retry_after: seconds, where trying again may help.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.retry_after = status, message, param, code, retry_after

    def body(self) -> dict[str, Any]:
        """Return the body, which is also the last event of a stream that failed."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 504 or self.code == "engine_failed":
            headers["X-Should-Retry"] = "false"  # OpenAI's client would ask twice more for what takes or does harm
        return JSONResponse(self.body(), self.status, headers)


def internal_error() -> ApiError:
    return ApiError(500, "an error in the server; its log says which", code="internal_error")
