"""AttnLRP: relevance propagation with rules for attention, for vision transformers."""

from __future__ import annotations

from torch import Tensor

from phosphene.attribution.lrp import propagated
from phosphene.classifier import Classifier
from phosphene.errors import OptionError
from phosphene.registry import register_attribution
from phosphene.relevance import Composite, Gamma
from phosphene.targets import Target
from phosphene.types import Attribution


@register_attribution(
    title="AttnLRP",
    family="gradient",
    paper="achtibat2024",
    display="percentile",
    caveat="Softmax and products have no exact shares: the rules are first-order, and `lost` says what they leave out.",
)
def attn_lrp(
    classifier: Classifier,
    images: Tensor,
    target: Target,
    *,
    gamma: float = 0.05,
    gamma_convolution: float = 0.25,
    batch_size: int | None = None,
) -> Attribution:
    """Each pixel's share of the score of a transformer, handed down through attention as well.

    As `lrp`, with rules for what attention adds: softmax by its Taylor expansion, ``R_i = x_i (R_i - s_i sum R)``;
    of a product of two features (queries and keys, attention and values) each gets half, shared out as in a linear
    layer; layer norm as a linear layer whose spread stands still; GELU and its kin hand on. Linear layers and the
    convolution that makes the patches have the gamma rule, with the paper's values for vision transformers. Fused
    attention and nn.MultiheadAttention are taken apart.

    Args:
        classifier: what is explained.
        images: (N, C, H, W) in [0, 1].
        target: the class or unit whose score is shared out; not its probability.
        gamma: of linear layers, 0 or more; 0 is the epsilon rule.
        gamma_convolution: of convolutions, 0 or more.
        batch_size: not used: images are taken one at a time.

    Returns:
        Signed maps (N, H, W) in units of the score.

    Raises:
        ModelError: for a step that has no rule, naming it and its layer.
        OptionError: for a negative gamma, or a probability as the target's score.

    Example:
        >>> class Tiny(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.patch, self.head = torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Linear(8, 2)
        ...         self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        ...     def forward(self, x):
        ...         x = self.patch(x).flatten(2).transpose(1, 2)
        ...         return self.head((x + self.attention(x, x, x)[0]).mean(1))
        >>> attn_lrp(Classifier(Tiny()), torch.rand(1, 3, 16, 16), Target.of(1)).maps.shape
        torch.Size([1, 16, 16])

    References:
        achtibat2024, sections 3.1 to 3.3 and appendix B.
    """
    if gamma < 0 or gamma_convolution < 0:
        raise OptionError(f"attn_lrp: gamma={gamma} and gamma_convolution={gamma_convolution} must be 0 or more")
    return propagated(classifier, images, target, Composite(Gamma(gamma_convolution), Gamma(gamma), attention=True))
