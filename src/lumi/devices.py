"""Where to compute and in which number type, as configs name it; without torch, which a config does not need."""

from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
