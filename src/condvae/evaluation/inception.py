"""The Frechet inception distance, as others report it: in the features of the Inception network."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from condvae.errors import UserError
from condvae.evaluation.descriptors import Images


def inception_distance(real: Images, made: Images, weights: str | Path) -> float:
    """FID (Heusel et al. 2017) of made images against real ones, by torchmetrics.

    It depends on the number of images, which is to be reported with it; published ones mostly use
    50,000.

    Arguments:
        weights: file of the Inception network's weights as torch-fidelity distributes them. Nothing is
            downloaded.

    Raises:
        UserError: there is no such file, or torchmetrics and torch-fidelity aren't installed.
    """
    if not Path(weights).is_file():
        raise UserError(
            f"--inception {weights}: no such file; give the weights that torch-fidelity distributes as "
            "weights-inception-2015-12-05-6726825d.pth"
        )
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
    except (ImportError, ModuleNotFoundError) as error:
        raise UserError(
            "--inception: needs torchmetrics and torch-fidelity; install condvae[fid]"
        ) from error
    metric = metric.to(real.device)
    for images, is_real in ((real, True), (made, False)):
        for part in images.split(250):
            metric.update(coloured(part), real=is_real)
    return float(metric.compute())


def coloured(images: Images) -> Tensor:
    """Grey images as three equal channels."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
