"""The table of cards: every name that a driver shows finds its own card, and no other's."""

import pytest
import torch

from lumi.errors import ConfigError
from lumi.training.cards import CARDS, find_card, peak_flops, recognize_card

SHOWN = {
    "NVIDIA H200": "H200",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA A100-SXM4-40GB": "A100 40GB",
    "NVIDIA A100-PCIE-40GB": "A100 40GB",
    "NVIDIA A100-SXM4-80GB": "A100 80GB",
    "NVIDIA A100 80GB PCIe": "A100 80GB",
    "NVIDIA L40S": "L40S",
    "NVIDIA L4": "L4",
    "NVIDIA A10G": "A10G",
    "NVIDIA GeForce RTX 3060": "RTX 3060",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4060": "RTX 4060",
    "NVIDIA GeForce RTX 4070": "RTX 4070",
    "NVIDIA GeForce RTX 4080": "RTX 4080",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5090": "RTX 5090",
    "Tesla V100-SXM2-16GB": "V100 16GB",
    "Tesla V100-SXM2-32GB": "V100 32GB",
    "Tesla T4": "T4",
}
OTHERS = [
    "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4070 Ti SUPER", "NVIDIA GeForce RTX 4080 SUPER",
    "NVIDIA GeForce RTX 3060 Laptop GPU", "NVIDIA GeForce RTX 4090 D", "NVIDIA L40", "NVIDIA A10", "NVIDIA T400",
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "NVIDIA GH200 480GB", "CPU", "",
]  # fmt: skip


@pytest.mark.parametrize("shown, card", SHOWN.items())
def test_what_the_driver_shows(shown, card):
    assert find_card(shown).name == card


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_every_card_is_found_by_its_own_name_and_tested_above(card):
    assert find_card(card.name) is card
    assert find_card(card.name.lower()) is card
    assert card.name in SHOWN.values()
    assert 8 <= card.memory_gib < 150
    assert 20 < card.tflops < 1000


@pytest.mark.parametrize("shown", OTHERS)
def test_a_card_that_only_looks_like_one_is_not_taken_for_it(shown):
    assert recognize_card(shown) is None


def test_an_unknown_card_is_refused_with_the_names():
    with pytest.raises(ConfigError) as caught:
        find_card("RTX 9999")
    assert "'RTX 9999'" in caught.value.fact
    assert all(card.name in caught.value.way_out for card in CARDS)


def test_the_peak_is_that_of_the_card(monkeypatch):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak_flops(cuda, None) == 989e12
    assert peak_flops(cuda, 500.0) == 500e12
    assert peak_flops(torch.device("cpu"), None) is None
    assert peak_flops(torch.device("cpu"), 2.0) == 2e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Unknown")
    assert peak_flops(cuda, None) is None
