"""Invariant 4: no position sees a later one; under document masking none sees another document."""

import pytest
import torch

from lumi.model import ModelConfig, create_model, document_mask
from lumi.model.attention import dense_mask, documents_of
from lumi.tokenizer.ids import BOS_ID

CONFIG = ModelConfig(vocab_size=64, n_layer=3, d_model=32, n_head=2, head_dim=16, sequence_length=24)


@pytest.mark.parametrize("attention", ["sdpa", "plain"])
def test_changing_a_token_changes_nothing_before_it(attention):
    model = create_model(CONFIG, attention=attention)
    tokens = torch.randint(16, 64, (1, 24), generator=torch.Generator().manual_seed(0))
    before = model(tokens)
    for position in (1, 11, 23):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1 - 16) % 48 + 16
        after = model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.allclose(before[:, position:], after[:, position:])


def test_document_masking_hides_the_other_documents():
    model = create_model(CONFIG)
    tokens = torch.randint(16, 64, (1, 24), generator=torch.Generator().manual_seed(0))
    tokens[0, 8] = tokens[0, 17] = BOS_ID
    masked = model(tokens, mask=document_mask(tokens, BOS_ID))
    other = tokens.clone()
    other[0, :8] = 20
    other[0, 18:] = 20
    assert torch.equal(masked[:, 8:17], model(other, mask=document_mask(other, BOS_ID))[:, 8:17])
    assert not torch.allclose(masked[:, 8:17], model(tokens)[:, 8:17])  # without the mask they are seen


def test_a_document_in_a_row_gets_the_logits_it_gets_alone():
    model = create_model(CONFIG)
    tokens = torch.randint(16, 64, (1, 24), generator=torch.Generator().manual_seed(0))
    tokens[0, 8] = BOS_ID
    together = model(tokens, mask=document_mask(tokens, BOS_ID))[:, 8:]
    # rotary positions are relative, so the document's place in the row does not matter
    torch.testing.assert_close(together, model(tokens[:, 8:]), rtol=1e-4, atol=1e-5)


def test_documents_by_their_borders_are_the_same_mask():
    tokens = torch.randint(0, 40, (3, 64), generator=torch.Generator().manual_seed(0))
    most = int((tokens[:, 1:] == BOS_ID).sum(1).max()) + 1
    assert most > 2
    for room in (most, 2 * most):
        borders = documents_of(tokens, BOS_ID, room)
        assert torch.equal(dense_mask(borders, 3, 64), document_mask(tokens, BOS_ID))
