"""LoRA: frozen weights, and beside each chosen matrix a product of two thin ones that is trained.

    y = W x + scaling B A x        (arXiv:2106.09685; scaling alpha / r, or alpha / sqrt(r): arXiv:2312.03732)
    y = m (W x + scaling B A x) / |W + scaling B A|    with a trained length m a row (DoRA, arXiv:2402.09353)

An adapted layer is a `Linear` with more parameters, so the frozen weights keep their names. Control symbols that
pretraining never showed have an untrained row in embedding and head; those few rows are trained whole.

Shapes: R rank, I inputs, O outputs, K trained rows, D d_model, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lumi.config import Config
from lumi.model.llama import Linear, Llama, whole
from lumi.randomness import torch_generator

TargetName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraConfig(Config):
    """Which matrices get an adapter, and of what size."""

    r: int = Field(default=16, gt=0)
    """Rank."""
    alpha: float = Field(default=16.0, gt=0)
    """The adapter's output is scaled by alpha / r."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that are dropped in training."""
    targets: tuple[TargetName, ...] = Field(
        default=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"), min_length=1
    )
    """Matrices of each block that are adapted."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead (rsLoRA)."""
    use_dora: bool = False
    """Train the length of each row of the adapted matrices too (DoRA)."""

    @property
    def scaling(self) -> float:
        return self.alpha / (self.r**0.5 if self.use_rslora else self.r)


class _FusedLora(torch.autograd.Function):
    """y = x W^T + (x A^T) B^T with W frozen, as products over [x, h] and [W, B]: no sum makes a pass of its own."""

    @staticmethod
    def forward(ctx: Any, x_NI: Tensor, weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor) -> Tensor:
        h_NR = x_NI @ a_RI.t()
        ctx.save_for_backward(x_NI, h_NR, weight_OI, a_RI, b_OR)
        return torch.cat([x_NI, h_NR], 1) @ torch.cat([weight_OI, b_OR], 1).t()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None, Tensor, Tensor]:
        x_NI, h_NR, weight_OI, a_RI, b_OR = ctx.saved_tensors
        (grad_NO,) = grads
        grad_x_NI, grad_h_NR = (grad_NO @ torch.cat([weight_OI, b_OR], 1)).split([x_NI.shape[1], h_NR.shape[1]], 1)
        return grad_x_NI + grad_h_NR @ a_RI, None, grad_h_NR.t() @ x_NI, grad_NO.t() @ h_NR


class LoraLinear(Linear):
    """A frozen matrix with an adapter; B begins at zero, so that nothing changes before the first step."""

    def __init__(self, base: Linear, config: LoraConfig, draw: torch.Generator) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight = base.weight
        self.scaling, self.dropout = config.scaling, config.dropout
        self.adapting = True
        self.lora_A = Linear(base.in_features, config.r)
        self.lora_B = Linear(config.r, base.out_features)
        bound = base.in_features**-0.5  # PEFT's: Kaiming's uniform with a = sqrt(5)
        with torch.no_grad():
            self.lora_A.weight.uniform_(-bound, bound, generator=draw)
            self.lora_B.weight.zero_()
        self.magnitude = nn.Parameter(base.weight.detach().float().norm(dim=1)) if config.use_dora else None

    def forward(self, input: Tensor) -> Tensor:
        if not self.adapting:
            return super().forward(input)
        if self.magnitude is None and not (self.dropout and self.training):
            return self.together(input, [self])[0]
        base = super().forward(input)
        kept = F.dropout(input, self.dropout, self.training) if self.dropout else input
        out: Tensor = base + self.lora_B(self.lora_A(kept)) * self.scaling
        return out if self.magnitude is None else out * self._row_scale().to(out.dtype)

    @staticmethod
    def together(x: Tensor, layers: Sequence[Any]) -> tuple[Tensor, ...]:
        """Apply adapted layers to one input: one product for all that is frozen, one for what leads into adapters."""
        if any(layer.magnitude is not None or (layer.dropout and layer.training) for layer in layers):
            return tuple(layer(x) for layer in layers)
        if not layers[0].adapting:
            return Linear.together(x, layers)
        weight_OI = torch.cat([layer.weight for layer in layers]).to(x.dtype)
        a_RI = torch.cat([layer.lora_A.weight for layer in layers]).to(x.dtype)
        b_OR = torch.block_diag(*[layer.lora_B.weight * layer.scaling for layer in layers]).to(x.dtype)  # type: ignore[no-untyped-call]
        y_NO: Tensor = _FusedLora.apply(x.flatten(0, -2), weight_OI, a_RI, b_OR)  # type: ignore[no-untyped-call]
        return torch.split(y_NO.view(*x.shape[:-1], -1), [layer.out_features for layer in layers], dim=-1)

    def _row_scale(self) -> Tensor:
        """Return m / |W + scaling B A| of each output; the norm counts as a constant in the backward pass."""
        assert self.magnitude is not None
        with torch.no_grad():
            norm_O = (self.weight.float() + self._product()).norm(dim=1)
        scale_O: Tensor = self.magnitude / norm_O
        return scale_O

    def _product(self) -> Tensor:
        product_OI: Tensor = whole(self.lora_B.weight).float() @ whole(self.lora_A.weight).float()
        return self.scaling * product_OI

    @torch.no_grad()
    def dense(self) -> Tensor:
        weight_OI = whole(self.weight)
        return self.merged(weight_OI.float()) if self.adapting else weight_OI

    @torch.no_grad()
    def merged(self, weight_OI: Tensor) -> Tensor:
        """Return the one matrix that does the same, in the type of the weight that is given."""
        out = weight_OI + self._product().to(weight_OI)
        return out if self.magnitude is None else out * (whole(self.magnitude).to(out) / out.norm(dim=1)).unsqueeze(1)


class RowEmbedding(nn.Embedding):
    """A frozen embedding of which some rows are trained."""

    ids_K: Tensor

    def __init__(self, base: nn.Embedding, rows_KD: nn.Parameter, ids: Sequence[int]) -> None:
        super().__init__(base.num_embeddings, base.embedding_dim, _weight=base.weight)
        self.weight = base.weight
        self.rows, self.adapting = rows_KD, True
        self.register_buffer("ids_K", torch.tensor(ids), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        if not self.adapting:
            return super().forward(input)
        chosen_BTK = input.unsqueeze(-1) == self.ids_K  # a product with it has a deterministic gradient
        rows_BTD = chosen_BTK.to(self.rows.dtype) @ self.rows
        return torch.where(chosen_BTK.any(-1, keepdim=True), rows_BTD, super().forward(input).to(rows_BTD.dtype))

    def dense(self) -> Tensor:
        """Return the one embedding that does the same."""
        return _with_rows(self) if self.adapting else whole(self.weight)


class RowHead(Linear):
    """A frozen head of which some rows are trained."""

    ids_K: Tensor

    def __init__(self, base: Linear, rows_KD: nn.Parameter, ids: Sequence[int]) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight = base.weight
        self.rows, self.adapting = rows_KD, True
        self.register_buffer("ids_K", torch.tensor(ids), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        if not self.adapting:
            return super().forward(input)
        weight_VD = self.weight.to(input.dtype).index_copy(0, self.ids_K, self.rows.to(input.dtype))
        return F.linear(input, weight_VD)

    def dense(self) -> Tensor:
        return _with_rows(self) if self.adapting else whole(self.weight)


def _with_rows(layer: RowEmbedding | RowHead) -> Tensor:
    rows_KD = whole(layer.rows)
    return whole(layer.weight).to(rows_KD.dtype).index_copy(0, layer.ids_K, rows_KD)


def add_lora(
    model: Llama,
    config: LoraConfig,
    row_ids: Sequence[int],
    *,
    seed: int = 0,
    layer_class: type[LoraLinear] = LoraLinear,
) -> None:
    """Freeze a model and put adapters into it.

    Args:
        model: its weights are kept, and stay as they are bit for bit.
        config: the adapters.
        row_ids: tokens whose rows in embedding and head are trained too.
        seed: names the adapters' initial weights.
        layer_class: what an adapted matrix becomes (`QuantizedLoraLinear`: in four bits).
    """
    model.requires_grad_(False)
    draw = torch_generator(seed, "lora")
    for block in model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, layer in list(part.named_children()):  # type: ignore[union-attr]
                if name in config.targets:
                    setattr(part, name, layer_class(layer, config, draw))
    if row_ids:
        ids = sorted(set(row_ids))
        embedding, head = model.model.embed_tokens, model.lm_head
        rows_KD = nn.Parameter(embedding.weight[ids].clone())
        model.model.embed_tokens = RowEmbedding(embedding, rows_KD, ids)
        own_KD = rows_KD if model.config.tie_embeddings else nn.Parameter(head.weight[ids].clone())
        model.lm_head = RowHead(head, own_KD, ids)


def set_adapters(model: Llama, *, on: bool) -> None:
    """Switch all adapters of a model on, or off: then it is the base."""
    for layer in model.modules():
        if isinstance(layer, LoraLinear | RowEmbedding | RowHead):
            layer.adapting = on


def narrow_frozen(model: Llama, dtype: torch.dtype) -> None:
    """Keep frozen matrices in the compute type: each forward pass would cast them to that anyway.

    Norms are computed in float32, and so are the lengths of DoRA's rows.
    """
    for layer in model.modules():
        wide = isinstance(layer, LoraLinear) and layer.magnitude is not None
        for parameter in layer.parameters(recurse=False):
            if not parameter.requires_grad and parameter.ndim == 2 and not wide:
                parameter.data = parameter.data.to(dtype)


def adapter_parameters(model: Llama) -> dict[str, nn.Parameter]:
    """Return what is trained, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _adapted(model: Llama) -> Iterator[tuple[str, LoraLinear]]:
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            yield name, layer


@torch.no_grad()
def merged_weights(model: Llama, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a plain model that does the same as an adapted one.

    Args:
        model: with adapters, on the CPU.
        base: the frozen weights as they were loaded, float32.
    """
    out = dict(base)
    for name, layer in _adapted(model):
        out[f"{name}.weight"] = layer.merged(base[f"{name}.weight"])
    for name, rowed in (("model.embed_tokens", model.model.embed_tokens), ("lm_head", model.lm_head)):
        if isinstance(rowed, RowEmbedding | RowHead) and f"{name}.weight" in base:
            out[f"{name}.weight"] = base[f"{name}.weight"].index_copy(0, rowed.ids_K, rowed.rows)
    return out
