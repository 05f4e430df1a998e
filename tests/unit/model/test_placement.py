"""Where a model runs, and in which type."""

import pytest
import torch

from lumi.errors import ConfigError
from lumi.model import choose_device, choose_dtype


def test_a_cpu_computes_in_fp32_unless_asked():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA card")
def test_without_a_card_auto_is_the_cpu_and_cuda_is_refused():
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match="no CUDA card"):
        choose_device("cuda")
