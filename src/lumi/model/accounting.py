"""What a model costs, by formula: parameters, floating-point operations, bytes.

Tests hold each formula against a measurement. L layers, d model width, f feed-forward width, V vocabulary,
T context length.
"""

from dataclasses import dataclass

from lumi.model.config import ModelConfig


@dataclass(frozen=True)
class Parameters:
    """How many numbers a model is made of."""

    total: int
    embedding: int  # embedding and head; counted once when tied

    @property
    def non_embedding(self) -> int:
        return self.total - self.embedding


def count_parameters(config: ModelConfig) -> Parameters:
    """Count the parameters of a config without building it."""
    d = config.d_model
    attention = d * config.head_dim * 2 * (config.n_head + config.num_kv_heads)
    block = attention + 3 * d * config.d_ffn + 2 * d
    embedding = config.vocab_size * d * (1 if config.tie_embeddings else 2)
    return Parameters(total=config.n_layer * block + d + embedding, embedding=embedding)


def training_flops_per_token(config: ModelConfig, sequence_length: int, *, frozen: bool = False) -> float:
    """Return the model's own operations per trained token, forward and backward.

    3 (2 (L (attention and feed-forward matrices) + V d) + 2 L T d_attention): a multiply and an add per weight,
    twice that in the backward pass, causal attention counted as half of its square. Recomputation is not counted.
    With frozen matrices (LoRA) their own gradients fall away, and what the adapter needs is not counted.
    """
    d = config.d_model
    d_attention = config.n_head * config.head_dim
    matrices = config.n_layer * (2 * d * config.head_dim * (config.n_head + config.num_kv_heads) + 3 * d * config.d_ffn)
    attention = 2 * config.n_layer * sequence_length * d_attention
    return (2.0 if frozen else 3.0) * 2 * (matrices + config.vocab_size * d) + 3.0 * attention


@dataclass(frozen=True)
class Memory:
    """Bytes of a training step, by part; the allocator's rounding and the kernels' workspaces come on top."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def training_memory(
    config: ModelConfig,
    *,
    micro_batch_size: int,
    sequence_length: int,
    compute_bytes: int,
    recompute: bool,
    shards: int = 1,
    trainable: int | None = None,
) -> Memory:
    """Estimate the bytes of one training step with AdamW and float32 weights.

    Args:
        config: the model.
        micro_batch_size: rows in one forward pass.
        sequence_length: tokens in a row.
        compute_bytes: bytes of an activation (2 for bf16 and fp16, 4 for fp32).
        recompute: activation checkpointing: only the input of each block is kept.
        shards: ranks that share weights, gradients and optimiser (FSDP).
        trainable: parameters that have gradients and optimiser state; default: all.
    """
    from lumi.model.loss import chunk_positions

    count = count_parameters(config).total
    trained = count if trainable is None else trainable
    tokens = micro_batch_size * sequence_length
    d, f, heads = config.d_model, config.d_ffn, config.n_head * config.head_dim
    kv = config.num_kv_heads * config.head_dim
    # kept per token by one block: two norm inputs and outputs, q/k/v before and after rotation, the attention
    # output, gate, up and their product; the casts of the weights are kept too
    block = tokens * compute_bytes * (4 * d + 2 * (heads + kv) + kv + heads + 3 * f)
    kept = tokens * compute_bytes * d * config.n_layer + block if recompute else block * config.n_layer
    # one chunk of logits in float32; their gradients in the compute type the compiler keeps from all chunks
    chunk = min(tokens, chunk_positions("cuda", config.vocab_size)) * config.vocab_size
    return Memory(
        weights=4 * count // shards,
        gradients=4 * trained // shards,
        optimizer=8 * trained // shards,
        activations=kept + compute_bytes * (count - count_parameters(config).embedding // 2),
        logits=chunk * 4 + tokens * config.vocab_size * compute_bytes + 4 * config.vocab_size * d,
    )


def largest_micro_batch(
    config: ModelConfig,
    *,
    rows: int,
    memory_bytes: int,
    sequence_length: int,
    compute_bytes: int,
    recompute: bool,
    shards: int = 1,
    trainable: int | None = None,
) -> int | None:
    """Return the largest divisor of ``rows`` whose step fits into the memory; None: not even one row does."""
    for size in range(rows, 0, -1):
        if rows % size == 0:
            memory = training_memory(
                config,
                micro_batch_size=size,
                sequence_length=sequence_length,
                compute_bytes=compute_bytes,
                recompute=recompute,
                shards=shards,
                trainable=trainable,
            )
            if memory.total <= memory_bytes:
                return size
    return None
