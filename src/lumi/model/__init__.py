"""The model: its shape, the Llama itself, attention back ends, the chunked loss, and what it all costs."""

from lumi.model.accounting import (
    Memory,
    Parameters,
    count_parameters,
    largest_micro_batch,
    training_flops_per_token,
    training_memory,
)
from lumi.model.attention import Mask, choose_attention, document_mask, mask_documents
from lumi.model.config import ModelConfig
from lumi.model.llama import Llama, create_model
from lumi.model.loss import IGNORE, next_token_losses, summed_loss, token_log_probs
from lumi.model.placement import choose_device, choose_dtype, free_memory, release_memory
from lumi.model.pretrained import load_model, model_name, read_model_config, read_stop_ids

__all__ = [
    "IGNORE", "Llama", "Mask", "Memory", "ModelConfig", "Parameters",
    "choose_attention", "choose_device", "choose_dtype", "count_parameters", "create_model", "document_mask",
    "free_memory", "largest_micro_batch", "load_model", "mask_documents", "model_name", "next_token_losses",
    "read_model_config", "read_stop_ids", "release_memory", "summed_loss", "token_log_probs",
    "training_flops_per_token", "training_memory",
]  # fmt: skip
