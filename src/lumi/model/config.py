"""The shape of a model: the blueprint's keys, checked, and their translation to and from transformers' Llama."""

from typing import Any, Self

from pydantic import Field, model_validator

from lumi.config import Config
from lumi.errors import ConfigError
from lumi.tokenizer.ids import BOS_ID, EOS_ID, PAD_ID


class ModelConfig(Config):
    """A Llama-like decoder: RMSNorm, rotary positions, SwiGLU, no biases."""

    vocab_size: int = Field(default=32768, gt=16, le=65536)
    """Rows of the embedding and of the head; equals the tokenizer's vocabulary."""
    n_layer: int = Field(gt=0)
    """Transformer blocks."""
    d_model: int = Field(gt=0)
    """Width of the residual stream."""
    n_head: int = Field(gt=0)
    """Query heads."""
    n_kv_head: int | None = Field(default=None, gt=0)
    """Key/value heads (grouped-query attention); default: as many as query heads."""
    head_dim: int = Field(default=64, gt=0)
    """Width of one head; even, because rotary positions turn pairs."""
    ffn_ratio: float = Field(default=4.0, gt=0)
    """Hidden width of the SwiGLU as a multiple of d_model."""
    sequence_length: int = Field(default=1024, gt=1)
    """Longest context, in tokens."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary frequencies."""
    norm_eps: float = Field(default=1e-5, gt=0)
    """Added to the mean square in RMSNorm."""
    tie_embeddings: bool = False
    """Use the embedding as the head."""

    @property
    def num_kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def d_ffn(self) -> int:
        return round(self.ffn_ratio * self.d_model)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_head % self.num_kv_heads:
            raise ValueError(f"n_kv_head {self.n_kv_head} must divide n_head {self.n_head}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even")
        return self

    def to_transformers(self) -> dict[str, Any]:
        """Return the ``config.json`` with which `transformers.LlamaForCausalLM` builds the same model."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "num_hidden_layers": self.n_layer,
            "hidden_size": self.d_model,
            "num_attention_heads": self.n_head,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.d_ffn,
            "max_position_embeddings": self.sequence_length,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": BOS_ID,
            "eos_token_id": EOS_ID,
            "pad_token_id": PAD_ID,
            "dtype": "float32",
        }

    @classmethod
    def from_transformers(cls, data: dict[str, Any], where: str) -> Self:
        """Read a Llama ``config.json``.

        Raises:
            ConfigError: not a Llama, or one with parts that this model has not (biases, scaled positions).
        """
        rope = data.get("rope_parameters") or {"rope_theta": data.get("rope_theta", 10000.0)}
        unsupported = [key for key in ("attention_bias", "mlp_bias", "rope_scaling") if data.get(key)]
        if rope.get("rope_type", "default") != "default":
            unsupported.append("rope_parameters")
        if data.get("model_type") != "llama" or unsupported:
            found = f"model_type {data.get('model_type')!r}" if not unsupported else ", ".join(unsupported)
            raise ConfigError(f"{where}: {found} is not supported", "use a plain Llama checkpoint")
        heads = data["num_attention_heads"]
        return cls(
            vocab_size=data["vocab_size"],
            n_layer=data["num_hidden_layers"],
            d_model=data["hidden_size"],
            n_head=heads,
            n_kv_head=data.get("num_key_value_heads", heads),
            head_dim=data.get("head_dim") or data["hidden_size"] // heads,
            ffn_ratio=data["intermediate_size"] / data["hidden_size"],
            sequence_length=data["max_position_embeddings"],
            rope_theta=rope["rope_theta"],
            norm_eps=data["rms_norm_eps"],
            tie_embeddings=data.get("tie_word_embeddings", False),
        )
