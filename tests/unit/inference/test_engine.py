"""Generation: an answer depends on its prompt, its number and the seed, and on nothing else."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lumi.errors import DataError
from lumi.inference import GenerationConfig, generate, stream
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
