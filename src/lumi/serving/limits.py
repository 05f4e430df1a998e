"""What one request may cost, and all of them together."""

from pydantic import Field

from lumi.config import Config


class Limits(Config):
    """Bounds of the server; what is beyond them is refused with a word about it."""

    max_body_bytes: int = Field(default=1 << 20, gt=0)
    """Largest body of a request."""
    max_prompt_tokens: int | None = Field(default=None, gt=0)
    """Longest prompt; default: what the model's context has room for."""
    max_new_tokens: int = Field(default=4096, gt=0)
    """Longest answer that may be asked for; the context may end it earlier."""
    max_choices: int = Field(default=16, gt=0)
    """Answers to one request: its prompts, times `n`."""
    max_logprobs: int = Field(default=50_000, gt=0)
    """Log-probabilities in the answers to one request: tokens, times choices, times one and the likeliest shown."""
    max_waiting: int = Field(default=256, ge=0)
    """Answers that wait for a slot of a model; more are refused with 429."""
    max_requests_per_key: int = Field(default=64, gt=0)
    """Requests of one API key at once (without keys: of everyone), each choice one; more are refused with 429."""
    request_seconds: float = Field(default=300.0, gt=0)
    """Longest time for one request, waiting included."""
    drain_seconds: float = Field(default=30.0, ge=0)
    """When the server is told to end: how long running requests may go on."""
