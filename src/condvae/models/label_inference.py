"""How a label is inferred from an image: `q(y|x)`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from condvae.models.classifier import CLASSIFIERS


class LabelInference(nn.Module):
    """`q(y|x)`: a classifier of what the encoder sees (M2: Kingma et al. 2014), or none.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of labels, K.
        spec: the classifier as in a recipe; empty for none.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, spec: str) -> None:
        super().__init__()
        self.classifier = CLASSIFIERS.build(spec, shape=shape, classes=classes) if spec else None

    def forward(self, image: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch classes"] | None:
        """Its probabilities."""
        return None if self.classifier is None else self.classifier(image).float().softmax(1)
