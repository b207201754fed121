"""The flat conditional VAE: one group of latents.

Generative model `p(x|z,y) p(z|y)`, inference model `q(z|x,y)` (Kingma et al. 2014; Sohn et al.
2015). The label reaches the encoder, the decoder and the prior, each through an embedding of its own,
unless a recipe leaves one out.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from condvae.errors import UserError
from condvae.models.conditioning import LabelEmbedding
from condvae.models.label_inference import LabelInference
from condvae.models.networks import NETWORKS
from condvae.models.protocol import (
    Elbo,
    Images,
    Labels,
    Latents,
    Temperature,
    WeightedDraws,
    for_each_group,
)
from condvae.probability.likelihoods import LIKELIHOODS, ImageDistribution
from condvae.probability.posteriors import POSTERIORS, LatentDistribution
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
        label_inference: a classifier to be `q(y|x)`; empty for none.

    Raises:
        UserError: a part does not exist or has no such option, or two of them can't go together.
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
        label_inference: str = "",
    ) -> None:
        super().__init__()
        self.shape = shape
        self.classes = classes
        self.latents = latents
        self.group_shapes = ((latents,),)
        self.likelihood = LIKELIHOODS.build(likelihood, shape=shape)
        self.posterior = POSTERIORS.build(posterior, latents=latents)
        self.prior = PRIORS.build(
            prior, latents=latents, classes=classes, shape=shape, infer=self._infer
        )
        self.uses_label = bool(label_reaches) or self.prior.uses_label
        widths = [embedding if place in label_reaches else 0 for place in ("encoder", "decoder")]
        self.encoder_label = LabelEmbedding(classes, widths[0])
        self.decoder_label = LabelEmbedding(classes, widths[1])
        self.network = NETWORKS.build(
            network,
            shape=shape,
            planes=self.likelihood.planes,
            latents=latents,
            posterior_parameters=self.posterior.parameters_needed,
            condition=(widths[0], widths[1]),
        )
        self.label_inference = LabelInference(shape, classes, label_inference)
        self._refuse_what_cannot_go_together(prior, posterior, network)
        if self.network.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _refuse_what_cannot_go_together(self, prior: str, posterior: str, network: str) -> None:
        if not self.prior.asks_posterior:
            return
        if not self.posterior.density_is_quick:
            raise UserError(
                f"prior {prior!r} is a mixture of posteriors, and asks each of them for the density of "
                f"every draw; posterior {posterior!r} can only find that one latent after another. "
                "Use diagonal-gaussian, full-covariance or coupling-flow with it"
            )
        if any(isinstance(part, nn.BatchNorm2d) for part in self.network.modules()):
            raise UserError(
                f"prior {prior!r} shows the encoder pseudo-images, and network {network!r} normalises "
                "over a batch: they would change the statistics of real images. Use conv or mlp with it"
            )

    def infer(self, observed: Images, y: Labels) -> LatentDistribution:
        """The posterior `q(z|x,y)` of observed images."""
        return self._infer(self.likelihood.network_input(observed), y)

    def _infer(self, image: Float[Tensor, "batch c h w"], y: Labels) -> LatentDistribution:
        """The same, of images as the encoder sees them."""
        return self.posterior(self.network.encode(image, self.encoder_label(y)))

    def _image_distribution(self, v: Float[Tensor, "batch z"], y: Labels) -> ImageDistribution:
        z = self.prior.place(v, y)
        distribution: ImageDistribution = self.likelihood(self.network.decode(z, self.decoder_label(y)))
        return distribution

    def elbo(self, x: Images, y: Labels, noise: Float[Tensor, "batch z"] | None = None) -> Elbo:
        observed = self.likelihood.observe(x)
        posterior = self.infer(observed, y)
        v, log_prob = posterior.draw(torch.randn_like(posterior.centre) if noise is None else noise)
        images = self._image_distribution(v, y)
        return Elbo(
            log_likelihood=images.log_prob(observed),
            kl=self.prior.kl(posterior, v, log_prob, y)[:, None],
            latents=(self.prior.carry(v, y),),
            posterior=posterior,
            images=images,
        )

    def log_weights(
        self, x: Images, y: Labels, noise: Float[Tensor, "samples batch z"]
    ) -> Float[Tensor, "samples batch"]:
        return self.weighted_draws(x, y, noise).log_weights

    def weighted_draws(
        self,
        x: Images,
        y: Labels,
        noise: Float[Tensor, "samples batch z"],
        hold_posterior: bool = False,
    ) -> WeightedDraws:
        """Draws and their weights; see `WeightedDraws`.

        Arguments:
            hold_posterior: take `log q(z|x,y)` with q's parameters as constants, so that its gradient
                passes through the draw alone (Roeder et al. 2017).
        """
        observed = self.likelihood.observe(x)
        image = self.likelihood.network_input(observed)
        handle = self.network.encode(image, self.encoder_label(y)).expand(len(noise), -1, -1)
        posterior = self.posterior(handle)
        v, log_prob = posterior.draw(noise)
        if hold_posterior:
            log_prob = posterior.held().log_prob(v)
        each = y.expand(len(noise), -1)
        decoded = self._image_distribution(v.flatten(0, 1), each.flatten())
        images = observed.expand(len(noise), *observed.shape).flatten(0, 1)
        log_likelihood = decoded.log_prob(images).unflatten(0, (len(noise), -1))
        log_weights = log_likelihood + self.prior.log_prob(v, each) - log_prob
        return WeightedDraws(log_weights, (self.prior.carry(v, each),), handle, log_likelihood)

    def encode(self, x: Images, y: Labels, sample: bool = False) -> Latents:
        posterior = self.infer(self.likelihood.observe(x), y)
        v = posterior.centre
        if sample:
            v, _ = posterior.draw(torch.randn_like(v))
        return (self.prior.carry(v, y),)

    def decode(self, latents: Latents, y: Labels) -> ImageDistribution:
        return self._image_distribution(self.prior.settle(latents[0], y), y)

    def transfer(
        self, latents: Latents, given: Labels, generator: torch.Generator | None = None
    ) -> Latents:
        return latents

    def log_prior(self, latents: Latents, y: Labels) -> Float[Tensor, "batch"]:
        return self.prior.carried_log_prob(latents[0], y)

    def draw(
        self, y: Labels, temperature: Temperature = 1.0, generator: torch.Generator | None = None
    ) -> Latents:
        return (self.prior.draw(y, for_each_group(temperature, 1)[0], generator),)

    def sample(
        self, y: Labels, temperature: Temperature = 1.0, generator: torch.Generator | None = None
    ) -> Images:
        return self.decode(self.draw(y, temperature, generator), y).mean_image()

    def label_posterior(self, x: Images) -> Float[Tensor, "batch classes"] | None:
        return self.label_inference(self.likelihood.network_input(self.likelihood.observe(x)))

    def side_loss(self, x: Images, y: Labels) -> Float[Tensor, ""] | None:
        return None
