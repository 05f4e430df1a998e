"""How an answer is drawn: what a caller may choose for one prompt."""

from typing import Annotated

from pydantic import Field

from lumi.config import Config
from lumi.tokenizer.ids import EOS_ID

TokenBias = Annotated[float, Field(ge=-100, le=100)]


class GenerationConfig(Config):
    """How text is continued."""

    max_new_tokens: int = Field(default=128, gt=0)
    """Tokens to write at most; the model's context may end an answer earlier."""
    temperature: float = Field(default=0.8, ge=0)
    """0 takes the most likely token each time; 1 samples from the model's own distribution."""
    top_k: int | None = Field(default=None, gt=0)
    """Sample from the k most likely tokens only."""
    top_p: float = Field(default=0.95, ge=1e-6, le=1)
    """Sample from the smallest set of tokens with this probability."""
    min_p: float = Field(default=0.0, ge=0, le=1)
    """Leave out tokens that are less likely than this share of the most likely one."""
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    """Above 1: tokens seen before, in the prompt too, become less likely."""
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Taken once from the logit of each token that the answer has already."""
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    """Taken from the logit of a token for each time that the answer has it already."""
    logit_bias: dict[int, TokenBias] = Field(default_factory=dict)
    """Added to the logits of these token ids."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer; they are not part of it."""
    stop_ids: tuple[int, ...] = (EOS_ID,)
    """Token ids that end an answer."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Report each token's log-probability, and this many of the likeliest beside it."""
    seed: int = 0
    """The same seed gives the same answers; prompt number i draws with seed + i."""
    batch_size: int = Field(default=32, gt=0)
    """Prompts answered at once; does not change the answers."""

    @property
    def adjusts_logits(self) -> bool:
        """Whether a token's logit depends on what was written before, or on a bias."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or bool(self.logit_bias)
        )
