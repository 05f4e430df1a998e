"""Invariant 18: DPO's loss is what its paper says, is ln 2 at the reference, and turns its sign with the pair."""

import math

import numpy as np
import pytest
import torch
from tests.dpo_runs import config, make_preferences, make_tuned
from tests.sft_runs import SHAPE
from tests.training_runs import losses

from lumi.model import create_model, load_model
from lumi.model.lora import LoraConfig, adapter_parameters, add_lora
from lumi.posttraining import PreferenceDataset, dpo
from lumi.posttraining.dpo_objective import AdaptersOff, DPOObjective, FrozenCopy, stored_reference
from lumi.posttraining.preference_dataset import SIDES
from lumi.posttraining.preference_losses import LOSSES, OF_MEANS, WITHOUT_REFERENCE, LossSettings, PairSums
from lumi.posttraining.stored_reference import reference_log_probs

SETTINGS = LossSettings(beta=0.3, label_smoothing=0.1, gamma=0.4)


def sigma(x):
    return 1 / (1 + math.exp(-x))


def by_hand(name, c, r, rc, rr, nc, nr):
    """The losses once more, from the papers, in plain numbers."""
    b, e, g = 0.3, 0.1, 0.4
    h = c - r - rc + rr
    if name == "sigmoid":
        return -math.log(sigma(b * h))
    if name == "robust":
        return (-(1 - e) * math.log(sigma(b * h)) + e * math.log(sigma(-b * h))) / (1 - 2 * e)
    if name == "hinge":
        return max(0.0, 1 - b * h)
    if name == "ipo":
        return ((c - rc) / nc - (r - rr) / nr - 1 / (2 * b)) ** 2
    if name == "simpo":
        return -math.log(sigma(b / nc * c - b / nr * r - g))
    p, q = math.exp(c / nc), math.exp(r / nr)
    return -c / nc - b * math.log(sigma(math.log(p / (1 - p) / (q / (1 - q)))))


PAIRS = [(-3.0, -5.0, -4.0, -4.5, 3, 6), (-9.0, -2.0, -8.0, -2.5, 5, 2), (-1.0, -1.0, -2.0, -2.0, 4, 4)]
each = pytest.mark.parametrize("name", LOSSES)


def pair_sums(pairs=PAIRS):
    return PairSums(*(torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True)))


@each
def test_closed_form(name):
    found = LOSSES[name](pair_sums(), SETTINGS)
    torch.testing.assert_close(found, torch.tensor([by_hand(name, *pair) for pair in PAIRS], dtype=torch.float64))


@each
def test_gradient(name):
    inputs = [column.requires_grad_() for column in (pair_sums().chosen, pair_sums().rejected)]

    def loss(chosen, rejected):
        sums = pair_sums()
        rest = (sums.reference_chosen, sums.reference_rejected, sums.chosen_tokens, sums.rejected_tokens)
        return LOSSES[name](PairSums(chosen, rejected, *rest), SETTINGS)

    assert torch.autograd.gradcheck(loss, inputs)


@each
def test_a_swapped_pair_has_the_negative_margin(name):
    swapped = [(r, c, rr, rc, nr, nc) for c, r, rc, rr, nc, nr in PAIRS]
    assert torch.equal(pair_sums(swapped).margin, -pair_sums().margin)
    if name == "sigmoid":  # and -log sigmoid(x) - -log sigmoid(-x) = -x
        gap = LOSSES[name](pair_sums(), SETTINGS) - LOSSES[name](pair_sums(swapped), SETTINGS)
        torch.testing.assert_close(gap, -SETTINGS.beta * pair_sums().margin)
    else:
        assert not torch.equal(LOSSES[name](pair_sums(swapped), SETTINGS), LOSSES[name](pair_sums(), SETTINGS))


@pytest.fixture(scope="module")
def pairs(artifacts, tmp_path_factory):
    return make_preferences(tmp_path_factory.mktemp("pairs"), artifacts / "tokenizer")


@pytest.fixture(scope="module")
def tuned(artifacts, tmp_path_factory):
    return make_tuned(tmp_path_factory.mktemp("tuned") / "final", artifacts / "tokenizer")


def plain_log_probs(model, dataset):
    """Each conversation alone, the whole logits, one token after the other."""
    out = np.zeros((len(dataset.lengths), 2))
    for pair in range(len(dataset.lengths)):
        for side in range(2):
            rendered = dataset.files[2 * pair + side]
            ids = torch.from_numpy(rendered.ids.astype("int64"))
            log_probs = torch.log_softmax(model(ids[None, :-1])[0].double(), -1)
            out[pair, side] = sum(
                float(log_probs[place - 1, ids[place]]) for place in np.flatnonzero(rendered.loss).tolist()
            )
    return out


def batch(dataset, count=4):
    return torch.from_numpy(dataset.rows(np.arange(count)).astype("int64"))


def test_packed_log_probabilities_are_those_of_each_answer_alone(pairs):
    dataset, model = PreferenceDataset(pairs, "train"), create_model(SHAPE, seed=3)
    with torch.no_grad():
        plain = plain_log_probs(model, dataset)
    found = reference_log_probs(dataset, model, rows_at_once=3)
    np.testing.assert_allclose(found, plain, rtol=1e-5)

    dataset.reference = found
    stored = stored_reference(batch(dataset), dataset.documents_per_row())
    for row in range(4):
        inside = dataset.pairs_in(row)
        assert torch.equal(stored[row, : len(inside)], torch.from_numpy(found[inside]))
        assert not stored[row, len(inside) :].any()


def objective(dataset, loss="sigmoid", **more):
    return DPOObjective(loss, SETTINGS, pairs_per_row=dataset.documents_per_row(), **more)


@each
@pytest.mark.parametrize("nll_weight", [0.0, 0.7])
def test_loss_and_gradients_are_those_of_a_naive_version(pairs, name, nll_weight):
    dataset = PreferenceDataset(pairs, "train")
    base, model = create_model(SHAPE, seed=3), create_model(SHAPE, seed=4)
    if name not in WITHOUT_REFERENCE:
        dataset.reference = reference_log_probs(dataset, base, rows_at_once=4)
    rows = batch(dataset)
    loss, _ = objective(dataset, name, nll_weight=nll_weight).loss(model, rows)
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]

    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    inside = [pair for row in range(4) for pair in dataset.pairs_in(row)]
    assert objective(dataset).count(rows) == len(inside)
    for pair in inside:
        sums, sizes = [], []
        for side in range(2):
            rendered = dataset.files[2 * pair + side]
            ids, places = torch.from_numpy(rendered.ids.astype("int64")), np.flatnonzero(rendered.loss)
            log_probs = torch.log_softmax(model(ids[None, :-1])[0].double(), -1)
            sums.append(log_probs[places - 1, ids[places]].sum())
            sizes.append(len(places))
        reference = dataset.reference[pair] if dataset.reference is not None else (0.0, 0.0)
        columns = [torch.tensor(float(value), dtype=torch.float64) for value in (*reference, *sizes)]
        total = total + LOSSES[name](PairSums(*sums, *columns), SETTINGS) - nll_weight * sums[0] / sizes[0]
    total.backward()
    torch.testing.assert_close(loss.double(), total, rtol=1e-5, atol=1e-6)
    for mine, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, rtol=1e-3, atol=1e-5)


def test_every_kind_of_reference_gives_the_same(pairs):
    dataset, base = PreferenceDataset(pairs, "train"), create_model(SHAPE, seed=3)
    stored = PreferenceDataset(pairs, "train")
    stored.reference = reference_log_probs(dataset, base, rows_at_once=4)
    policy = create_model(SHAPE, seed=3)
    add_lora(policy, LoraConfig(r=4, alpha=8), (4, 5))
    found = []
    for moved in (False, True):
        if moved:
            with torch.no_grad():
                for parameter in adapter_parameters(policy).values():
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        for data, reference in ((stored, None), (dataset, AdaptersOff()), (dataset, FrozenCopy(base))):
            policy.zero_grad()
            loss, metrics = objective(data, reference=reference).loss(policy, batch(data))
            loss.backward()
            found.append([loss.detach(), metrics, *[p.grad.clone() for p in adapter_parameters(policy).values()]])
        for one, other in zip(found[-3], found[-2], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        for one, other in zip(found[-3], found[-1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    count = objective(dataset).count(batch(dataset))
    torch.testing.assert_close(found[0][0], count * math.log(2), rtol=1e-5, atol=0)
    assert not torch.allclose(found[3][0], found[0][0], rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("reference", ["stored", "live"])
def test_a_run_begins_at_ln_2_and_learns(pairs, tuned, tmp_path, method, reference):
    final = dpo(config(tuned, [pairs], tmp_path / "run", method=method, reference=reference,
                       optimizer__learning_rate=0.003, schedule__max_steps=30))  # fmt: skip
    log = losses(final)
    first, last = (next(r for r in order if r["loss"]) for order in (log, log[::-1]))
    assert first["loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert last["loss"] < 0.5
    *_, measured = [record for record in read_metrics(final.parent) if "val_loss" in record]
    assert measured["val_loss"]["pairs"] < 0.5
    assert measured["val_preference_accuracy"]["pairs"] > 0.9
    assert 0 < measured["val_kl"]["pairs"] < 5
    assert load_model(final) is not None


def read_metrics(run):
    import json

    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_row_without_a_pair_counts_for_nothing(pairs):
    dataset, model = PreferenceDataset(pairs, "train"), create_model(SHAPE, seed=3)
    dataset.reference = reference_log_probs(dataset, model, rows_at_once=4)
    rows = batch(dataset)
    rows[1:, :, SIDES] = 0
    whole = objective(dataset)
    assert whole.count(rows) == len(dataset.pairs_in(0))
    for one, other in zip(whole.loss(model, rows), whole.loss(model, rows[:1]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["sigmoid", *sorted(OF_MEANS)])
def test_rewards_say_who_wins_as_the_loss_sees_it(pairs, name):
    """Sums for DPO, means for the losses of means: a long answer is not worse for being long."""
    dataset, base, model = PreferenceDataset(pairs, "train"), create_model(SHAPE, seed=3), create_model(SHAPE, seed=4)
    if name not in WITHOUT_REFERENCE:
        dataset.reference = reference_log_probs(dataset, base, rows_at_once=4)
    rows = batch(dataset, count=6)
    _, metrics = objective(dataset, name).loss(model, rows)
    inside = [pair for row in range(6) for pair in dataset.pairs_in(row)]
    gained = reference_log_probs(dataset, model, rows_at_once=4)[inside]
    if name not in WITHOUT_REFERENCE:
        gained = gained - dataset.reference[inside]
    if name != "sigmoid":
        tokens = [[int((dataset.files[2 * pair + side].loss > 0).sum()) for side in range(2)] for pair in inside]
        gained = gained / np.array(tokens)
    found = dict(zip(objective(dataset).metrics, metrics.tolist(), strict=True))
    rewards = SETTINGS.beta * gained.sum(0)
    assert found["reward_chosen"] == pytest.approx(rewards[0], rel=1e-4)
    assert found["reward_rejected"] == pytest.approx(rewards[1], rel=1e-4)
    assert found["reward_margin"] == pytest.approx(rewards[0] - rewards[1], rel=1e-3, abs=1e-4)
    assert found["preference_accuracy"] == (gained[:, 0] > gained[:, 1]).sum()


@pytest.mark.filterwarnings("ignore")  # TRL's and transformers' own
@pytest.mark.parametrize("method, loss", [("lora", "sigmoid"), ("full", "sigmoid"), ("lora", "ipo"), ("lora", "hinge"),
                                          ("lora", "robust")])  # fmt: skip
def test_trl_finds_the_same(artifacts, tuned, tmp_path, method, loss):
    pytest.importorskip("trl")
    # one pair fills more than half of a row, so that each has a row of its own and steps are the same pairs
    long = [{"prompt": f"Say {n}: " + "a b " * 10, "chosen": f"Yes, {n}. " * 4, "rejected": f"No, {n}! " * 3}
            for n in range(40)]  # fmt: skip
    alone = make_preferences(tmp_path, artifacts / "tokenizer", "long", made=long, sequence_length=110)
    shared = {"method": method, "loss": loss, "training__batch_size": 4, "schedule__max_steps": 8,
              "training__save_steps": 8, "optimizer__learning_rate": 0.003,
              "label_smoothing": 0.1 if loss == "robust" else 0.0}  # fmt: skip
    data = PreferenceDataset(alone, "train")
    assert data.documents_per_row() == 1
    ours = dpo(config(tuned, [alone], tmp_path / "ours", **shared))
    theirs = dpo(config(tuned, [alone], tmp_path / "theirs", use_trl_trainer=True, **shared))
    logged = [[r for r in losses(folder) if r.get("loss")][:8] for folder in (ours, theirs)]
    for key in ("loss", "grad_norm", "learning_rate"):
        mine, other = ([record[key] for record in log] for log in logged)
        assert other == pytest.approx(mine, rel=5e-3), key
