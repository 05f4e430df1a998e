"""What is served: the models, and the calls to them that are let in."""

from collections.abc import Sequence

from lumi.errors import DataError
from lumi.inference import GenerationConfig, Request
from lumi.serving.api_error import ApiError
from lumi.serving.engine_thread import Call
from lumi.serving.limits import Limits
from lumi.serving.metrics import Metrics
from lumi.serving.served_model import ServedModel


class Service:
    """The models of one server, their limits and counters; for the loop that called `start`."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits) -> None:
        self.models = {model.id: model for model in models}
        self.limits = limits
        self.metrics = Metrics(models)
        self.is_draining = False
        self.num_open = 0  # HTTP requests

    def start(self) -> None:
        for model in self.models.values():
            model.thread.start()

    def stop(self) -> None:
        for model in self.models.values():
            model.thread.stop()

    def drain(self) -> None:
        """Take nothing new."""
        self.is_draining = True

    def fail_all(self) -> None:
        """End what still runs with an error."""
        for model in self.models.values():
            model.thread.fail_all(stopping())

    def check_ready(self) -> None:
        """Return where requests will be answered.

        Raises:
            ApiError: 503.
        """
        if self.is_draining:
            raise stopping()
        for model in self.models.values():
            if model.thread.is_broken:
                raise _broken(model)

    def model(self, model_id: str) -> ServedModel:
        """Find a model.

        Raises:
            ApiError: 404.
        """
        if model_id not in self.models:
            raise ApiError(
                404,
                f"there is no model {model_id!r:.200} here; there are: {', '.join(self.models)}",
                param="model",
                code="model_not_found",
            )
        return self.models[model_id]

    def new_tokens(self, asked: int | None, default: int) -> int:
        """Return how many tokens an answer may have.

        Raises:
            ApiError: 400, more than the limit was asked for.
        """
        most = self.limits.max_new_tokens
        if asked is not None and asked > most:
            raise ApiError(400, f"max_tokens: {asked:,} were asked for, {most:,} are the most", param="max_tokens")
        return min(default, most) if asked is None else asked

    def check_choices(self, count: int) -> None:
        """Look at how many answers are asked for, before prompts are encoded.

        Raises:
            ApiError: 400.
        """
        # more than a key may have at once would be refused for ever, and 429 says to try again
        if count > (most := min(self.limits.max_choices, self.limits.max_requests_per_key)):
            raise ApiError(400, f"n: {count:,} answers were asked for, {most:,} at once are the most", param="n")

    def requests(
        self,
        model: ServedModel,
        prompts: Sequence[Sequence[int]],
        settings: GenerationConfig,
        *,
        num_choices: int,
        param: str,
    ) -> list[Request]:
        """Return a request for each choice of each prompt; number i draws with seed + i.

        Args:
            model: that answers.
            prompts: as ids.
            settings: of all of them.
            num_choices: of each prompt.
            param: where the prompts stood.

        Raises:
            ApiError: 400, too long, or an id that is none of the model's.
        """
        most = min(self.limits.max_prompt_tokens or model.context, model.context - 1)
        for prompt in prompts:
            if len(prompt) > most:
                raise ApiError(
                    400,
                    f"the prompt has {len(prompt):,} tokens, {most:,} are the most: the model's context is"
                    f" {model.context:,}, and the answer stands in it too",
                    param=param,
                    code="context_length_exceeded",
                )
        try:
            made = [
                model.thread.engine.check(prompts[number // num_choices], _reseeded(settings, number))
                for number in range(len(prompts) * num_choices)
            ]
        except DataError as error:
            biased = any(token >= model.tokenizer.vocab_size for token in settings.logit_bias)
            param = "logit_bias" if biased else param
            raise ApiError(400, f"{error.fact}; {error.way_out}", param=param) from None
        if settings.logprobs is not None:
            shown = (1 + settings.logprobs) * sum(request.limit for request in made)
            if shown > (most := self.limits.max_logprobs):
                raise ApiError(
                    400,
                    f"logprobs: up to {shown:,} were asked for, {most:,} are the most: ask for fewer tokens, choices or"
                    " likeliest tokens",
                    param="logprobs",
                )
        return made

    def submit(self, model: ServedModel, requests: Sequence[Request], *, streams: bool) -> Call:
        """Hand requests to the engine.

        Raises:
            ApiError: 429 too many wait; 503 the engine is broken.
        """
        if model.thread.is_broken:
            raise _broken(model)
        if model.thread.num_open + len(requests) > model.num_slots + self.limits.max_waiting:
            raise ApiError(
                429, "the server is busy: too many requests wait; try again later", code="busy", retry_after=1
            )
        call = Call.of(requests, streams=streams)
        model.thread.submit(call)
        return call


def stopping() -> ApiError:
    return ApiError(503, "the server is stopping", code="stopping", retry_after=10)


def _broken(model: ServedModel) -> ApiError:
    return ApiError(503, f"the engine of {model.id} fails; the server's log says how", code="engine_failed")


def _reseeded(settings: GenerationConfig, number: int) -> GenerationConfig:
    return settings.model_copy(update={"seed": settings.seed + number}) if number else settings
