"""The flat conditional VAE: one group of latents.

Generative model `p(x|z,y) p(z|y)`, inference model `q(z|x,y)` (Kingma et al. 2014; Sohn et al.
2015). The label reaches the encoder, the decoder and the prior, each through an embedding of its own,
unless a recipe leaves one out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from condvae.models.conditioning import LabelEmbedding
from condvae.models.networks import NETWORKS
from condvae.models.protocol import Elbo, Images, Labels, Latents
from condvae.probability.likelihoods import LIKELIHOODS, ImageDistribution
from condvae.probability.posteriors import POSTERIORS, Normal
from condvae.probability.priors import PRIORS


class ConditionalVAE(nn.Module):
    """A conditional VAE, put together from parts that are named.

    Arguments:
        shape: `(C, H, W)` of the images.
        classes: number of labels, K.
        network, likelihood, prior, posterior: parts, written as in a recipe.
        latents: dimensions of `z`.
        embedding: width of the label's embeddings.
        label_reaches: which of "encoder" and "decoder" see the label. (Whether the prior sees it is
            the prior's own business.)

    Raises:
        UserError: a part does not exist or has no such option.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        network: str = "conv",
        likelihood: str = "bernoulli",
        prior: str = "conditional",
        posterior: str = "diagonal-gaussian",
        latents: int = 32,
        embedding: int = 32,
        label_reaches: tuple[str, ...] = ("encoder", "decoder"),
    ) -> None:
        super().__init__()
        self.shape = shape
        self.classes = classes
        self.latents = latents
        self.likelihood = LIKELIHOODS.build(likelihood)
        self.posterior = POSTERIORS.build(posterior, latents=latents)
        self.prior = PRIORS.build(prior, latents=latents, classes=classes)
        widths = [embedding if place in label_reaches else 0 for place in ("encoder", "decoder")]
        self.encoder_label = LabelEmbedding(classes, widths[0])
        self.decoder_label = LabelEmbedding(classes, widths[1])
        self.network = NETWORKS.build(
            network,
            shape=shape,
            parameters_per_channel=self.likelihood.parameters_per_channel,
            latents=latents,
            posterior_parameters=self.posterior.parameters_needed,
            condition=(widths[0], widths[1]),
        )
        if self.network.channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def infer(self, observed: Images, y: Labels) -> Normal:
        """The posterior `q(z|x,y)` of observed images."""
        image = self.likelihood.network_input(observed)
        posterior: Normal = self.posterior(self.network.encode(image, self.encoder_label(y)))
        return posterior

    def decode(self, latents: Latents, y: Labels) -> ImageDistribution:
        z = self.prior.place(latents[0], y)
        distribution: ImageDistribution = self.likelihood(self.network.decode(z, self.decoder_label(y)))
        return distribution

    def elbo(self, x: Images, y: Labels) -> Elbo:
        observed = self.likelihood.observe(x)
        posterior = self.infer(observed, y)
        u = posterior.sample(torch.randn_like(posterior.mean))
        kl = self.prior.kl(posterior, u, y)
        return Elbo(self.decode((u,), y).log_prob(observed), kl[:, None])

    def log_weights(
        self, x: Images, y: Labels, noise: Float[Tensor, "samples batch z"]
    ) -> Float[Tensor, "samples batch"]:
        observed = self.likelihood.observe(x)
        posterior = self.infer(observed, y)
        u = posterior.sample(noise)
        repeated = y.expand(len(noise), -1)
        log_ratio = self.prior.log_prob(u, repeated) - posterior.log_prob(u)
        decoded = self.decode((u.flatten(0, 1),), repeated.flatten())
        images = observed.expand(len(noise), *observed.shape).flatten(0, 1)
        return log_ratio + decoded.log_prob(images).unflatten(0, (len(noise), -1))

    def encode(self, x: Images, y: Labels, sample: bool = False) -> Latents:
        posterior = self.infer(self.likelihood.observe(x), y)
        return (posterior.sample(torch.randn_like(posterior.mean)) if sample else posterior.mean,)

    def sample(
        self, y: Labels, temperature: float = 1.0, generator: torch.Generator | None = None
    ) -> Images:
        u = torch.randn(len(y), self.latents, generator=generator, device=y.device)
        return self.decode((temperature * u,), y).mean_image()

    def label_posterior(self, x: Images) -> None:
        """None: this model infers no labels."""
        return None
