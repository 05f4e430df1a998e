"""Generation: an answer depends on its prompt, its number and the seed, and on nothing else."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.errors import DataError
from lumi.inference import Engine, GenerationConfig, generate, stream
from lumi.model import ModelConfig, create_model

PROMPTS = ["The history of the old town", "", "A", "Water is", "In the year of the great flood all of the mills"]
GREEDY = {"temperature": 0.0, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def model(tokenizer):
    """A model whose answers depend visibly on every token before."""
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, n_layer=2, d_model=48, n_head=3, n_kv_head=1, head_dim=16, sequence_length=64
    )
    model = create_model(config, seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(8)
    return model


def texts(completions):
    return [(completion.token_ids, completion.text, completion.finish_reason) for completion in completions]


@pytest.mark.parametrize("sampling", [GREEDY, {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, "seed": 7}])
def test_batching_does_not_change_an_answer(model, tokenizer, sampling):
    together = texts(generate(model, tokenizer, PROMPTS, GenerationConfig(**sampling)))
    for batch_size in (1, 2):
        one_by_one = generate(model, tokenizer, PROMPTS, GenerationConfig(**sampling, batch_size=batch_size))
        assert texts(one_by_one) == together
    assert len({ids for ids, _, _ in together}) == len(PROMPTS)


def test_greedy_equals_the_full_forward(model, tokenizer):
    for prompt, completion in zip(
        PROMPTS, generate(model, tokenizer, PROMPTS, GenerationConfig(**GREEDY)), strict=True
    ):
        ids = [1, *tokenizer.encode(prompt)]
        assert completion.num_prompt_tokens == len(ids)
        for token in completion.token_ids:
            with torch.no_grad():
                assert model(torch.tensor([ids]))[0, -1].argmax().item() == token
            ids.append(token)


def test_the_seed_decides(model, tokenizer):
    def answers(seed):
        return texts(
            generate(model, tokenizer, PROMPTS, GenerationConfig(temperature=1.5, max_new_tokens=8, seed=seed))
        )

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_the_same_prompt_twice_is_answered_twice(model, tokenizer):
    first, second = generate(model, tokenizer, ["Water is"] * 2, GenerationConfig(temperature=1.5, max_new_tokens=8))
    assert first.token_ids != second.token_ids


def test_stops_at_an_end_token_and_leaves_it_out(model, tokenizer):
    (free,) = generate(model, tokenizer, ["Water is"], GenerationConfig(**GREEDY))
    assert free.finish_reason == "length"
    assert len(free.token_ids) == 12
    end = free.token_ids[5]
    first = free.token_ids.index(end)
    (stopped,) = generate(model, tokenizer, ["Water is"], GenerationConfig(**GREEDY, stop_ids=(end,)))
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[:first]


def test_each_answer_ends_where_its_own_context_ends(model, tokenizer):
    """A short prompt beside a long one writes on after it; its positions are its own, not its columns."""
    config = GenerationConfig(temperature=0.0, max_new_tokens=1000, stop_ids=())
    together = generate(model, tokenizer, PROMPTS, config)
    for completion in together:
        assert completion.num_prompt_tokens + len(completion.token_ids) == model.config.sequence_length
        assert completion.finish_reason == "length"
    assert texts(together) == [texts(generate(model, tokenizer, [prompt], config))[0] for prompt in PROMPTS]


def test_a_prompt_without_room_for_an_answer_is_refused(model, tokenizer):
    with pytest.raises(DataError, match=r"prompt 2 has .* tokens .* context is 64"):
        generate(model, tokenizer, ["short", "0123456789" * 20])
    with pytest.raises(DataError, match="no room for an answer"):
        stream(model, tokenizer, ["0123456789" * 20])  # at once, not at the first bit


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(st.lists(st.text(max_size=8), min_size=1, max_size=3), st.integers(0, 1000))
def test_streamed_equals_whole(model, tokenizer, prompts, seed):
    config = GenerationConfig(temperature=2.0, top_p=1.0, max_new_tokens=10, seed=seed)
    streamed, ends = [""] * len(prompts), [[] for _ in prompts]
    for delta in stream(model, tokenizer, prompts, config):
        assert not ends[delta.index], "text after the end"
        streamed[delta.index] += delta.text
        if delta.finish_reason:
            ends[delta.index].append(delta.finish_reason)
    whole = generate(model, tokenizer, prompts, config)
    assert streamed == [completion.text for completion in whole]
    assert ends == [[completion.finish_reason] for completion in whole]


def test_no_prompts_no_answers(model, tokenizer):
    assert generate(model, tokenizer, []) == []


def ids_of(tokenizer, text):
    return [1, *tokenizer.encode(text)]


def alone(model, tokenizer, text, config):
    engine = Engine(model, tokenizer, num_slots=1)
    request = engine.submit(ids_of(tokenizer, text), config)
    engine.run()
    return request


def outcome(request):
    return request.token_ids, request.text, request.finish_reason


def test_requests_join_and_leave_between_steps(model, tokenizer):
    """More requests than slots, of different length, begun at different times, cancelled between."""
    engine = Engine(model, tokenizer, num_slots=2)
    config = {
        n: GenerationConfig(temperature=1.0, max_new_tokens=3 + 5 * (n % 3), seed=n, stop_ids=()) for n in range(9)
    }
    requests = {}
    for n in range(9):
        requests[n] = engine.submit(ids_of(tokenizer, PROMPTS[n % 5]), config[n])
        engine.step()
        assert engine.num_running <= 2
    victim = next(n for n in requests if requests[n].finish_reason is None and requests[n].token_ids)
    engine.cancel(requests[victim])
    waiting = next(n for n in requests if not requests[n].token_ids and n != victim)
    engine.cancel(requests[waiting])
    engine.run()
    assert engine.num_running == engine.num_waiting == 0
    for n, request in requests.items():
        if n in (victim, waiting):
            assert request.finish_reason == "cancelled"
        else:
            assert outcome(request) == outcome(alone(model, tokenizer, PROMPTS[n % 5], config[n]))


def test_a_prefix_that_a_slot_holds_is_not_computed_again(model, tokenizer):
    system = "The history of the old town and its water mill, in years of good weather. "
    config = GenerationConfig(temperature=0.0, max_new_tokens=5, stop_ids=())
    engine = Engine(model, tokenizer, num_slots=2)
    first = engine.submit(ids_of(tokenizer, system), config)
    engine.run()
    second = engine.submit([*first.prompt_ids, *first.token_ids, 20, 21], config)  # goes on: its slot
    third = engine.submit([*first.prompt_ids[:-2], 30], config)  # begins alike, while that slot is taken: a copy
    engine.run()
    assert first.cached_tokens == 0
    assert second.cached_tokens >= len(first.prompt_ids)
    assert third.cached_tokens >= len(first.prompt_ids) - 2
    for request in (second, third):
        fresh = Engine(model, tokenizer, num_slots=1)
        again = fresh.submit(request.prompt_ids, config)
        fresh.run()
        assert again.cached_tokens == 0
        assert outcome(again) == outcome(request)


def test_long_prompts_are_filled_in_by_pieces_while_others_write(model, tokenizer, monkeypatch):
    monkeypatch.setattr("lumi.inference.engine._FILL_TOKENS", {"cpu": 4, "cuda": 4})
    engine = Engine(model, tokenizer, num_slots=3)
    config = GenerationConfig(temperature=0.0, max_new_tokens=12, stop_ids=())
    writer = engine.submit(ids_of(tokenizer, "A"), config)
    engine.step()
    others = [engine.submit(ids_of(tokenizer, text), config) for text in (PROMPTS[0], PROMPTS[4])]
    written = len(writer.token_ids)
    engine.step()
    assert len(writer.token_ids) == written + 1  # nobody waits for a whole prompt
    assert not others[0].token_ids
    engine.run()
    for request, text in zip([writer, *others], ("A", PROMPTS[0], PROMPTS[4]), strict=True):
        assert outcome(request) == outcome(alone(model, tokenizer, text, config))


def test_stop_texts_end_an_answer_and_are_left_out(model, tokenizer):
    free = alone(model, tokenizer, "Water is", GenerationConfig(**GREEDY, stop_ids=()))
    stop = free.text[4:7]
    stopped = alone(model, tokenizer, "Water is", GenerationConfig(**GREEDY, stop_ids=(), stop=("never", stop)))
    assert stopped.text == free.text[: free.text.index(stop)]
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids == free.token_ids[: len(stopped.token_ids)]


def test_log_probabilities_are_the_models_own(model, tokenizer):
    config = GenerationConfig(temperature=1.5, top_k=3, max_new_tokens=6, stop_ids=(), logprobs=4)
    request = alone(model, tokenizer, "Water is", config)
    ids = list(request.prompt_ids)
    assert [one.token for one in request.logprobs] == request.token_ids
    for one in request.logprobs:
        with torch.no_grad():
            wanted = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert one.logprob == pytest.approx(wanted[one.token].item(), abs=1e-4)
        assert [token for token, _ in one.likeliest] == wanted.topk(4).indices.tolist()
        ids.append(one.token)


def test_bias_and_penalties_reach_the_draw(model, tokenizer):
    forced = alone(model, tokenizer, "Water", GenerationConfig(**GREEDY, stop_ids=(), logit_bias={40: 100.0}))
    assert forced.token_ids == [40] * 12
    config = GenerationConfig(**GREEDY, stop_ids=(), logit_bias={40: 100.0}, frequency_penalty=2.0)
    varied = alone(model, tokenizer, "Water", config)
    assert varied.token_ids[0] == 40
    loop = alone(model, tokenizer, "", GenerationConfig(temperature=0.0, max_new_tokens=40, stop_ids=()))
    without = GenerationConfig(temperature=0.0, max_new_tokens=40, stop_ids=(), repetition_penalty=50.0)
    assert len(set(alone(model, tokenizer, "", without).token_ids)) > len(set(loop.token_ids))


def test_what_cannot_be_answered_is_refused_at_once(model, tokenizer):
    engine = Engine(model, tokenizer, num_slots=1)
    for ids, config, message in (
        ([], GenerationConfig(), "no token"),
        ([1, 5000], GenerationConfig(), "token 5000"),
        ([1, -1], GenerationConfig(), "token -1"),
        ([1], GenerationConfig(logit_bias={5000: 1.0}), "token 5000"),
        ([1] * 64, GenerationConfig(), "no room for an answer"),
    ):
        with pytest.raises(DataError, match=message):
            engine.submit(ids, config)
    assert engine.is_idle


def test_reset_ends_everything_and_the_engine_goes_on(model, tokenizer):
    engine = Engine(model, tokenizer, num_slots=2)
    config = GenerationConfig(temperature=0.0, max_new_tokens=30, stop_ids=())
    requests = [engine.submit(ids_of(tokenizer, PROMPTS[0]), config) for _ in range(4)]
    engine.step()
    engine.reset()
    assert engine.is_idle
    assert {request.finish_reason for request in requests} == {"cancelled"}
    again = engine.submit(ids_of(tokenizer, PROMPTS[0]), config)
    engine.run()
    assert again.cached_tokens == 0
    assert outcome(again) == outcome(alone(model, tokenizer, PROMPTS[0], config))


def test_int8_is_near_the_model(model, tokenizer):
    """Logits differ by some percent of their spread, and an answer begins alike."""
    config = GenerationConfig(temperature=0.0, max_new_tokens=1, stop_ids=(), logprobs=5)
    for text in PROMPTS:
        found = []
        for int8 in (False, True):
            engine = Engine(model, tokenizer, num_slots=1, int8=int8)
            found.append(engine.submit(ids_of(tokenizer, text), config))
            engine.run()
        plain, rough = (dict(request.logprobs[0].likeliest) for request in found)
        top = next(iter(plain))
        assert top in rough
        assert rough[top] == pytest.approx(plain[top], abs=0.5)
        assert rough[top] != plain[top]


def test_a_long_prompt_is_not_overtaken_for_ever(model, tokenizer, monkeypatch):
    """Prompts that are partly in get their share before those that come later."""
    monkeypatch.setattr("lumi.inference.engine._FILL_TOKENS", {"cpu": 16, "cuda": 16})
    engine = Engine(model, tokenizer, num_slots=4)
    config = GenerationConfig(temperature=0.0, max_new_tokens=1, stop_ids=())
    long = engine.submit(range(20, 80), config)
    for number in range(12):
        engine.submit([100 + number, *range(30, 45)], config)
        engine.step()
    assert long.finish_reason == "length"


def test_what_is_being_filled_in_for_one_is_waited_for_by_others(model, tokenizer):
    """Several choices for one prompt: it is computed once."""
    engine = Engine(model, tokenizer, num_slots=4)
    prompt = ids_of(tokenizer, PROMPTS[4])
    config = GenerationConfig(temperature=1.0, max_new_tokens=5, stop_ids=())
    requests = [engine.submit(prompt, config.model_copy(update={"seed": seed})) for seed in range(4)]
    engine.run()
    assert [request.cached_tokens for request in requests] == [0, *[len(prompt) - 1] * 3]
    for seed, request in enumerate(requests):
        assert outcome(request) == outcome(
            alone(model, tokenizer, PROMPTS[4], config.model_copy(update={"seed": seed}))
        )


def test_steps_that_are_read_later_change_nothing(model, tokenizer):
    """As on a card: a step is started before the tokens of the one before are read."""
    config = GenerationConfig(temperature=1.0, max_new_tokens=6, seed=3)

    def deltas(lag):
        engine = Engine(model, tokenizer, num_slots=2)
        if lag:
            engine._stepper = Late(engine._stepper)
        requests = [engine.submit(ids_of(tokenizer, text), config) for text in PROMPTS]
        moved = []
        while not engine.is_idle:
            step = engine.step()
            assert len(step) == len({id(request) for request in step})
            moved += step
        return [outcome(request) for request in requests]

    assert deltas(lag=True) == deltas(lag=False)


class Late:
    """Draws when it is told to, and tells one step later; tokens that nobody has read yet are fed all the same."""

    lag = 1

    def __init__(self, stepper):
        self.stepper, self.begin = stepper, stepper.begin
        self.fed = {}

    def step(self, slots):
        waiting = [
            (slot.holder, self.fed[slot.holder])
            for slot in slots
            if slot.holder in self.fed and slot.started > len(slot.holder.token_ids)
        ]
        for request, token in waiting:
            request.token_ids.append(token)
        drawn = self.stepper.step(slots).wait()
        for request, _ in waiting:
            request.token_ids.pop()
        self.fed.update({slot.holder: token for slot, token in zip(slots, drawn.tokens, strict=True)})
        return Drawn(drawn)


class Drawn:
    def __init__(self, drawn):
        self.drawn = drawn

    def wait(self):
        return self.drawn
