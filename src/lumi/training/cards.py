"""Known cards: how much they hold and how fast they multiply, by their vendor's datasheets.

Utilisation is measured against these figures, and `lumi plan` reckons with them for cards that are not here.
"""

import re
from dataclasses import dataclass

import torch

from lumi.errors import ConfigError

# Words in a device name that make it another card than its number says, with other figures.
_VARIANTS = frozenset({"TI", "SUPER", "LAPTOP", "MOBILE", "MAX", "D", "NVL", "MIG"})
_MAKERS = frozenset({"NVIDIA", "GEFORCE", "TESLA"})


@dataclass(frozen=True)
class Card:
    """One kind of card.

    ``tflops`` are dense bf16 (fp16 before Ampere) products accumulated in float32, without sparsity;
    ``memory_gib`` is what nvidia-smi shows as total.
    """

    name: str
    memory_gib: float
    tflops: float


# GeForce cards accumulate in float32 at half the rate that they are advertised with.
CARDS = (
    Card("H200", 140.4, 989.0),
    Card("H100 PCIe", 79.6, 756.0),
    Card("H100", 79.6, 989.0),
    Card("A100 80GB", 80.0, 312.0),
    Card("A100 40GB", 40.0, 312.0),
    Card("L40S", 45.0, 362.0),
    Card("L4", 22.5, 121.0),
    Card("A10G", 22.5, 70.0),
    Card("RTX 5090", 31.8, 209.5),
    Card("RTX 4090", 24.0, 165.2),
    Card("RTX 4080", 16.0, 97.5),
    Card("RTX 4070", 12.0, 58.3),
    Card("RTX 4060", 8.0, 30.2),
    Card("RTX 3090", 24.0, 71.0),
    Card("RTX 3060", 12.0, 25.5),
    Card("V100 32GB", 32.0, 125.0),
    Card("V100 16GB", 16.0, 125.0),
    Card("T4", 15.0, 65.0),
)


def recognize_card(name: str) -> Card | None:
    """Return the card that a device name such as ``NVIDIA A100-SXM4-80GB`` means; None for one not in the table.

    All words of a card's name must be there, the most specific card wins, and a variant (Ti, SUPER, a MIG slice,
    a laptop's) is not the card whose number it carries.
    """
    words = set(re.split(r"[\s\-]+", name.upper().strip())) - _MAKERS
    if words & _VARIANTS:
        return None
    found = [card for card in CARDS if set(card.name.upper().split()) <= words]
    return max(found, key=lambda card: len(card.name.split()), default=None)


def find_card(name: str) -> Card:
    """Return the card of that name, as the table or nvidia-smi writes it.

    Raises:
        ConfigError: it is not in the table.
    """
    card = recognize_card(name)
    if card is None:
        known = ", ".join(card.name for card in CARDS)
        raise ConfigError(f"card {name!r} is not in the table", f"known are: {known}; or give --memory_gb")
    return card


def peak_flops(device: torch.device, override_tflops: float | None) -> float | None:
    """Return the device's highest FLOP/s, or None where it is not known (utilisation is then left out)."""
    if override_tflops is not None:
        return override_tflops * 1e12
    if device.type != "cuda":
        return None
    card = recognize_card(torch.cuda.get_device_name(device))
    return None if card is None else card.tflops * 1e12
