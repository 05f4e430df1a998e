"""Corpora: their pictures are drawn elsewhere, in `tests/unit/test_pictures.py` and the pipeline's tests."""

import pytest


@pytest.fixture(autouse=True)
def _quick_cards(no_pictures):
    pass
