"""Preference tuning on a card: the compiled loss is the plain one, and a bf16 run goes where the fp32 run goes."""

import numpy as np
import pytest
import torch
from tests.dpo_runs import config, make_preferences, make_tuned
from tests.sft_runs import SHAPE
from tests.training_runs import losses

from lumi.model import create_model
from lumi.model.lora import LoraConfig, adapter_parameters, add_lora
from lumi.posttraining import PreferenceDataset, dpo
from lumi.posttraining.dpo_objective import AdaptersOff, DPOObjective
from lumi.posttraining.preference_losses import LossSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]


@pytest.fixture(scope="module")
def pairs(artifacts, tmp_path_factory):
    return make_preferences(tmp_path_factory.mktemp("pairs"), artifacts / "tokenizer")


@pytest.fixture(scope="module")
def tuned(artifacts, tmp_path_factory):
    return make_tuned(tmp_path_factory.mktemp("tuned") / "final", artifacts / "tokenizer")


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # fp32 on purpose
def test_the_compiled_loss_with_a_live_reference_equals_the_plain_one(pairs):
    dataset = PreferenceDataset(pairs, "train")
    rows = torch.from_numpy(dataset.rows(np.arange(4)).astype("int64")).cuda()
    found = []
    for compiled in (False, True):
        model = create_model(SHAPE)
        add_lora(model, LoraConfig(r=4), (4, 5))
        with torch.no_grad():
            for parameter in adapter_parameters(model).values():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
        model.cuda()
        objective = DPOObjective("sigmoid", LossSettings(0.1), pairs_per_row=dataset.documents_per_row(),
                                 reference=AdaptersOff())  # fmt: skip

        def loss_of(rows, model=model, objective=objective):
            return objective.loss(model, rows)

        loss, metrics = (torch.compile(loss_of) if compiled else loss_of)(rows)
        loss.backward()
        found.append([loss.detach(), metrics, *[p.grad for p in adapter_parameters(model).values()]])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(plain, fast, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("reference", ["stored", "live"])
def test_bf16_goes_where_fp32_goes(pairs, tuned, tmp_path, method, reference):
    log = []
    for precision in ("fp32", "bf16"):
        final = dpo(config(tuned, [pairs], tmp_path / precision, method=method, reference=reference,
                           training__device="cuda", training__precision=precision, training__compile=True,
                           optimizer__learning_rate=0.001))  # fmt: skip
        log.append([record["loss"] for record in losses(final) if record["loss"]])
    assert log[0][0] == pytest.approx(np.log(2), abs=1e-4)
    assert log[1] == pytest.approx(log[0], abs=0.08)
    assert log[1][-1] < log[1][0]
