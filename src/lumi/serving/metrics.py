"""What the server counts, for Prometheus."""

import time
from collections.abc import Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lumi.serving.engine_thread import Call
from lumi.serving.served_model import ServedModel

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_SECONDS_PER_TOKEN = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_OF_MODEL = ("model",)


class Metrics:
    """The counters of one server; not the process's, so that several may live in it."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lumi_http_requests", "Requests by route and status", ("route", "status"), registry=registry
        )
        self._prompt = Counter("lumi_prompt_tokens", "Tokens of prompts", _OF_MODEL, registry=registry)
        self._cached = Counter("lumi_cached_prompt_tokens", "Of these, found in a slot", _OF_MODEL, registry=registry)
        self._generated = Counter("lumi_generated_tokens", "Tokens of answers", _OF_MODEL, registry=registry)
        self._finished = Counter("lumi_answers_finished", "Answers written to their end", _OF_MODEL, registry=registry)
        self._cancelled = Counter("lumi_answers_cancelled", "Answers that were not", _OF_MODEL, registry=registry)
        self._first_token = Histogram(
            "lumi_time_to_first_token_seconds", "From submission, waiting included", _OF_MODEL,
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._per_token = Histogram(
            "lumi_time_per_token_seconds", "Mean of an answer, behind its first token", _OF_MODEL,
            buckets=_SECONDS_PER_TOKEN, registry=registry,
        )  # fmt: skip
        running = Gauge("lumi_answers_running", "Answers in a slot", _OF_MODEL, registry=registry)
        waiting = Gauge("lumi_answers_waiting", "Answers without one", _OF_MODEL, registry=registry)
        slots = Gauge("lumi_slots", "Answers written at once, at most", _OF_MODEL, registry=registry)
        failures = Gauge("lumi_engine_failures", "Steps that failed in a row", _OF_MODEL, registry=registry)
        for model in models:
            thread = model.thread
            running.labels(model.id).set_function(partial(getattr, thread.engine, "num_running"))
            waiting.labels(model.id).set_function(partial(getattr, thread, "num_waiting"))
            failures.labels(model.id).set_function(partial(getattr, thread, "num_failures"))
            slots.labels(model.id).set(model.num_slots)
            for counter in (self._prompt, self._cached, self._generated, self._finished, self._cancelled):
                counter.labels(model.id)  # a counter that is 0 is shown

    def count(self, model_id: str, call: Call) -> None:
        """Count a call that has ended, one way or another."""
        now = time.perf_counter()
        for answer in call.answers:
            num_tokens = len(answer.request.token_ids)
            # an answer can be read before the thread that wrote it has noted the time
            first, ended = answer.first_token_at or now, answer.ended_at or now
            self._generated.labels(model_id).inc(num_tokens)
            (self._finished if answer.is_done else self._cancelled).labels(model_id).inc()
            if answer.is_done or num_tokens:
                self._prompt.labels(model_id).inc(len(answer.request.prompt_ids))
                self._cached.labels(model_id).inc(answer.request.cached_tokens)
                self._first_token.labels(model_id).observe(first - call.submitted_at)
            if answer.is_done and num_tokens > 1:
                self._per_token.labels(model_id).observe((ended - first) / (num_tokens - 1))

    def text(self) -> bytes:
        """Return all of it in Prometheus's format."""
        return generate_latest(self._registry)
