"""What decoders are tested with: a model that decides, the numbers that a decoder keeps, ways to draw."""

import dataclasses

import torch

from lumi.model import ModelConfig, create_model

DRAWS = [
    {"temperature": 0.0}, {"temperature": 1.0, "top_p": 1.0}, {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 5, "top_p": 1.0}, {"temperature": 1.0, "top_k": 40, "top_p": 0.8},
    {"temperature": 1.0, "top_p": 1.0, "min_p": 0.2}, {"temperature": 2.0, "top_p": 0.5, "min_p": 0.01},
]  # fmt: skip


def sharp_model(shape, dtype, *, vocab_size=97, sequence_length):
    """Freshly drawn weights take everything for about as likely; these do not."""
    config = ModelConfig(vocab_size=vocab_size, n_layer=2, sequence_length=sequence_length, **shape)
    model = create_model(config, seed=3).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    model.compute_dtype = dtype
    return model


def in_float32(weights, kept=torch.Tensor.float):
    """The same numbers, or what is kept of those of matrices, computed with in float32."""
    blocks = [
        dataclasses.replace(
            block, **{field.name: kept(getattr(block, field.name)) for field in dataclasses.fields(block)}
        )
        for block in weights.blocks
    ]
    embedding, head = weights.embedding_VD.float(), kept(weights.head_VD)
    return dataclasses.replace(weights, dtype=torch.float32, embedding_VD=embedding, head_VD=head, blocks=blocks)
