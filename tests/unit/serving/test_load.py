"""A few seconds of what benchmarks/serving_load.py does for minutes: many clients, some of them badly behaved."""

import asyncio
from types import SimpleNamespace

from benchmarks.serving_load import level, make_cases, metrics, mixture
from tests.servers import load, serving, wait_until

CLIENTS, SECONDS = 24, 3.0


def test_under_load_no_answer_is_wrong_and_nothing_is_left(checkpoints, slow):
    options = SimpleNamespace(model_path=checkpoints.tuned, device="cpu", dtype="fp32", max_tokens=24)
    limits = {"max_requests_per_key": 100, "max_waiting": 400}
    with serving(load(checkpoints.tuned), limits) as server:
        slow(server.models[0], 0.005)  # else all is answered before anyone leaves
        address = ("127.0.0.1", server.port)
        cases = make_cases(options, server.model, count=16)
        assert len({case.text for case in cases}) > 10
        streamed = asyncio.run(level(address, cases, range(CLIENTS), SECONDS / 2))
        mixed = asyncio.run(mixture(address, cases, range(CLIENTS), SECONDS))
        for tally in (streamed, mixed):
            assert not tally.different
            assert dict(tally.problems) == {}
            assert tally.compared > CLIENTS
        assert set(streamed.statuses) == {200}
        assert all(mixed.kinds[kind] for kind in ("stream", "whole", "leaves", "nonsense")), mixed.kinds
        wait_until(lambda: server.service.num_open == 0)
        state = metrics(server.url)
        assert state["answers_running"] == state["answers_waiting"] == state["engine_failures"] == 0
        assert state["answers_cancelled_total"] > 0
        thread = server.models[0].thread
        assert (thread.num_open, thread._inbox, thread._moved) == (0, [], set())
