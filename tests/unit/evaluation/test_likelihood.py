"""Likelihoods equal a plain loop in float64, however prompts are shared, batched and cut."""

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lumi.errors import DataError
from lumi.evaluation.language_model import LumiModel, TransformersModel
from lumi.evaluation.likelihood import Request, fit, score_continuations
from lumi.model import ModelConfig, create_model
from lumi.tokenizer.ids import BOS_ID

CONTEXT = 24


@pytest.fixture(scope="module")
def llama():
    config = ModelConfig(vocab_size=90, n_layer=2, d_model=32, n_head=2, head_dim=16, sequence_length=CONTEXT)
    model = create_model(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model


@pytest.fixture(scope="module")
def model(llama):
    return LumiModel(llama, SimpleNamespace(sha256="of the tests"))


def plain(llama, request):
    """Log-probability token by token, each from a forward pass of its own."""
    prompt, continuation = request
    total, greedy = 0.0, True
    tokens = list(prompt)
    for target in continuation:
        with torch.no_grad():
            logits = llama(torch.tensor([tokens[-CONTEXT:]]))[0, -1].double()
        total += float(logits[target] - logits.logsumexp(0))
        greedy &= int(logits.argmax()) == target
        tokens.append(target)
    return total, greedy


def some_requests():
    draw = random.Random(0)

    def words(length):
        return tuple(draw.randrange(6, 90) for _ in range(length))

    shared = [(BOS_ID, *words(length)) for length in (3, 9, 14)]
    requests = [Request(prompt, words(draw.randrange(1, 7))) for prompt in shared for _ in range(4)]
    requests += [Request((BOS_ID, *words(5)), words(1)) for _ in range(3)]
    requests += [Request((BOS_ID,), words(3))]
    return [*requests, requests[0], requests[5]]


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_equals_a_plain_loop(llama, model, batch_tokens):
    requests = some_requests()
    found = score_continuations(model, requests, batch_tokens=batch_tokens)
    for request, one in zip(requests, found, strict=True):
        log_prob, greedy = plain(llama, request)
        assert one.log_prob == pytest.approx(log_prob, rel=1e-5)
        assert one.greedy == greedy


def test_what_greedy_decoding_gives_is_greedy(llama, model):
    prompt, tokens = (BOS_ID, 7, 8, 9), []
    for _ in range(4):
        with torch.no_grad():
            tokens.append(int(llama(torch.tensor([[*prompt, *tokens]]))[0, -1].argmax()))
    other = [*tokens[:3], (tokens[3] + 1) % 90]
    yes, no = score_continuations(model, [Request(prompt, tuple(tokens)), Request(prompt, tuple(other))])
    assert (yes.greedy, no.greedy) == (True, False)


def test_prompts_that_do_not_fit_lose_their_beginning(llama, model):
    prompt = (BOS_ID, *range(10, 50))
    requests = [Request(prompt, (60,)), Request(prompt, (60, 61, 62)), Request(prompt, tuple(range(60, 60 + CONTEXT)))]
    assert [fit(request, CONTEXT)[1] for request in requests] == [True, True, True]
    assert [len(fit(request, CONTEXT)[0].prompt) for request in requests] == [24, 22, 1]
    assert fit(Request(prompt[:24], (60,)), CONTEXT) == (Request(prompt[:24], (60,)), False)
    for request, one in zip(requests, score_continuations(model, requests), strict=True):
        cut = fit(request, CONTEXT)[0]
        assert one.log_prob == pytest.approx(plain(llama, cut)[0], rel=1e-5)


def test_an_answer_longer_than_the_context_is_named(model):
    with pytest.raises(DataError, match="an answer has 25 tokens, the model's context is 24"):
        score_continuations(model, [Request((BOS_ID,), tuple(range(25)))])


def test_a_broken_model_is_named(llama):
    broken = create_model(llama.config)
    with torch.no_grad():
        broken.lm_head.weight[0] = float("nan")
    with pytest.raises(DataError, match="log-probability is nan"):
        score_continuations(LumiModel(broken, SimpleNamespace(sha256="")), some_requests())


def test_a_model_of_others_gives_the_same(llama, model):
    config = LlamaConfig(**{k: v for k, v in llama.config.to_transformers().items() if k != "architectures"})
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(llama.state_dict(), strict=False)
    tokenizer = FakeTokenizer()
    requests = some_requests()
    ours = score_continuations(model, requests)
    found = score_continuations(TransformersModel(theirs, tokenizer, "sha"), requests, batch_tokens=64)
    for one, other in zip(ours, found, strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-4)
        assert one.greedy == other.greedy


class FakeTokenizer:
    bos_token_id, eos_token_id = 1, 2

    def __call__(self, text, **_):
        return {"input_ids": [1]}
