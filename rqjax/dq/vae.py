"""DQ-VAE: an image as codes of two or three grains, more where it has more to say (Huang et al. 2023, section 3.1)."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from einops import repeat
from jaxtyping import Array, Bool, Float, Int, Key

from rqjax.checks import at_least, frozen, rates
from rqjax.dq.given import keep_first
from rqjax.dq.picture import grain_map
from rqjax.dq.rates import grains_at_rates, rates_of
from rqjax.dq.router import NAMES
from rqjax.dq.routing import RoutingConfig, budget, route
from rqjax.errors import InputError
from rqjax.interface import Batch, Forward, Metrics, Rate
from rqjax.nets.init import Rngs
from rqjax.nets.tokenizer import Autoencoder, LastLayer
from rqjax.quantize import dynamic
from rqjax.quantize.codebook import Codebook
from rqjax.quantize.dynamic import Codes
from rqjax.quantize.histogram import hits, perplexity, usage
from rqjax.quantize.perturb import choices, near
from rqjax.quantize.pytree import pytree


@dataclasses.dataclass(kw_only=True)
class GrainConfig(abc.ABC):
    """The part of a DQ-VAE's configuration that does not depend on the kind of its networks."""

    resolution: int  # of the images
    embed_dim: int = 256  # width of a code's vector
    codebook_size: int = 1024  # codes, for all grains
    decay: float = 0.99  # of the codebook's moving averages
    restart_threshold: float = 1.0  # a count of vectors; 0 turns restarts off
    commitment_weight: float = 0.25  # of the mean squared distance between vectors and their codes
    grains: int = 2  # 2 or 3: regions of one code or of four, or of 1, 4 or 16
    routing: RoutingConfig = dataclasses.field(default_factory=RoutingConfig)  # how regions get their grains

    @property
    @abc.abstractmethod
    def grids(self) -> tuple[int, ...]:
        """The side of each grain's grid, from coarse to fine."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises InputError for values that make no model."""

    @abc.abstractmethod
    def network(self, rngs: Rngs) -> Autoencoder:
        """The encoder with its router and the decoder, with random values."""

    def check_codes(self) -> None:
        """Raises InputError for values that make no codebook."""
        at_least(1, embed_dim=self.embed_dim, codebook_size=self.codebook_size)
        rates(decay=self.decay)
        at_least(0, restart_threshold=self.restart_threshold, commitment_weight=self.commitment_weight)

    def init(self, key: Key[Array, ""]) -> "DQVAE":
        """A new model; random values as PyTorch would draw them, codebook U(-1/codebook_size, 1/codebook_size).

        The averages start at these vectors and at no hits; the reference starts the former at other random ones.
        """
        network_key, key = jax.random.split(key)
        config, size = frozen(self), self.codebook_size
        embed = jax.random.uniform(key, (size, self.embed_dim), minval=-1 / size, maxval=1 / size)
        quantizer = Codebook(
            embed=embed,
            count=jnp.zeros(size),
            total=jnp.array(embed, copy=True),  # a real copy: a donated state must not hold one buffer twice
            padding=jnp.zeros(self.embed_dim),
            decay=self.decay,
            restart_threshold=self.restart_threshold,
            commitment_weight=self.commitment_weight,
        )
        return DQVAE(self.network(Rngs(network_key)), quantizer, config)


@pytree
@dataclasses.dataclass(frozen=True)
class DQVAE:
    """A DQ-VAE: a Tokenizer with codes of several grains, in quantize.dynamic.Codes.

    Images are [b height width 3] in [-1, 1], of the configured resolution.
    """

    network: Autoencoder
    quantizer: Codebook  # one, which all grains share
    config: GrainConfig = dataclasses.field(metadata={"static": True})

    @property
    def trained(self) -> Autoencoder:
        """The network: no gradient reaches the codebook."""
        return self.network

    def with_trained(self, trained: Autoencoder) -> "DQVAE":
        return dataclasses.replace(self, network=trained)

    def with_quantizer(self, quantizer: Codebook) -> "DQVAE":
        return dataclasses.replace(self, quantizer=quantizer)

    @property
    def last_layer(self) -> LastLayer:
        return self.network.last_layer

    def train_forward(
        self,
        image: Float[Array, "b height width 3"],
        key: Key[Array, ""],
        noise: Float[Array, "b h w grains"] | None = None,
    ) -> Forward:
        """One pass of the training mode; `noise`, Gumbel(0, 1) per region and grain, comes from `key` if not given."""
        self._check_size(image)
        c = self.config
        noise_key, restart_key = jax.random.split(key)
        if noise is None:
            noise = jax.random.gumbel(noise_key, (image.shape[0], c.grids[0], c.grids[0], c.grains))
        routed = route(c.routing, self.network.encoder, image, noise)
        z = self.network.quant_conv(routed.merged)
        quantized = dynamic.quantize(self.quantizer, z, routed.mask)
        quantizer, restarted = dynamic.learn(self.quantizer, z, quantized.codes, restart_key)
        features = self.network.features(quantized.quantized)
        cost = budget(c.routing, routed.gate)
        metrics = {"commitment": quantized.loss, "budget": cost, "restarted": restarted}
        return Forward(
            reconstruction=self.last_layer(features),
            features=features,
            loss=quantized.loss + cost,
            quantizer=quantizer,
            metrics=metrics | self._usage(quantized.codes, routed.grain),
        )

    def _usage(self, codes: Int[Array, "b H W"], grain: Int[Array, "b h w"]) -> Metrics:
        """The use that cells make of the codebook, the share of each grain, and the codes of an image."""
        size, grains = self.config.codebook_size, self.config.grains
        shares = zip(NAMES[grains], dynamic.grain_fractions(grain, grains), strict=True)
        count = jnp.mean(dynamic.code_count(grain).astype(jnp.float32))
        measures = {"usage": usage(codes, size), "perplexity": perplexity(codes, size), "codes_per_image": count}
        return measures | {f"{name}_fraction": share for name, share in shares}

    def _check_size(self, image: Float[Array, "b height width 3"]) -> None:
        found, side = image.shape[1:3], self.config.resolution
        if found != (side, side):
            raise InputError(f"images of {found[0]}x{found[1]}: this model expects {side}x{side}, resize them")

    def quantize(self, image: Float[Array, "b height width 3"]) -> tuple[dynamic.DynamicQuantized, Int[Array, "b h w"]]:
        """The quantizer's result for an image in evaluation mode, and the grain of each region."""
        self._check_size(image)
        routed = route(self.config.routing, self.network.encoder, image, None)
        return self._quantize(routed.merged, routed.mask), routed.grain

    def _quantize(self, merged: Float[Array, "b H W c"], mask: Float[Array, "b H W"]) -> dynamic.DynamicQuantized:
        return dynamic.quantize(self.quantizer, self.network.quant_conv(merged), mask)

    def reconstruct_as(
        self, image: Float[Array, "b height width 3"], grain: Int[Array, "b h w"]
    ) -> Float[Array, "b height width 3"]:
        """The image after a pass through codes of the given grains, whatever the router would choose."""
        self._check_size(image)
        merged = dynamic.merge_grains(self.network.encoder(image), grain)
        mask = dynamic.codebook_mask(grain, self.config.grains)
        return self.network.image(self._quantize(merged, mask).quantized)

    def encode(self, image: Float[Array, "b height width 3"]) -> Codes:
        """The codes and grains of an image."""
        quantized, grain = self.quantize(image)
        return Codes(codes=quantized.codes, grain=grain)

    def latents(self, image: Float[Array, "b height width 3"], *, vectors: bool) -> Int[Array, "b H W 2"]:
        """The code of each cell of an image and its grain. Raises InputError for `vectors`, which no prior reads."""
        if vectors:
            raise InputError("a DQ-VAE's vectors are no latents, since its priors read codes: ask for codes")
        return dynamic.packed(self.encode(image))

    def codes_of(self, batch: Batch) -> Codes:
        """The codes of a batch's images in [-1, 1], or of its latents."""
        if "latent" not in batch:
            return self.encode(batch["image"])
        return dynamic.unpacked(batch["latent"].astype(jnp.int32), self.config.grids[0])

    @property
    def levels(self) -> int:
        """The grains."""
        return self.config.grains

    @property
    def code_sizes(self) -> Codes:
        """The codebook's size in each cell, and the number of grains in each region."""
        c, (coarse, *_, fine) = self.config, self.config.grids
        codes, grain = jnp.full((1, fine, fine), c.codebook_size), jnp.full((1, coarse, coarse), c.grains)
        return Codes(codes=codes, grain=grain)

    def keep_first(self, codes: Codes, rows: int, levels: int) -> Codes:
        """The grains of the first `rows` rows of regions, and their codes of the first `levels` grains; else -1."""
        return keep_first(codes, rows, levels)

    def vectors(self, codes: Codes) -> Float[Array, "b H W dim"]:
        """The vector of each cell's code, whatever its grain; 0 for a code of -1."""
        vectors = self.quantizer.vectors(jnp.maximum(codes.codes, 0))
        return jnp.where(codes.codes[..., None] < 0, 0, vectors)

    def decode_vectors(self, vectors: Float[Array, "b H W dim"]) -> Float[Array, "b height width 3"]:
        """The image for a map of vectors on the finest grid, not clamped."""
        return self.network.image(vectors)

    def decode_codes(self, codes: Codes) -> Float[Array, "b height width 3"]:
        """The image for codes, not clamped; each cell's code is looked up, whatever its grain. -1 has the vector 0."""
        return self.decode_vectors(self.vectors(codes))

    def reconstruct(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """The image after a pass through its codes, not clamped."""
        return self.network.image(self.quantize(image)[0].quantized)

    def progressive(self, image: Float[Array, "b height width 3"]) -> Float[Array, "1 b height width 3"]:
        """The reconstruction, as the only step: these codes have no order."""
        return self.reconstruct(image)[None]

    @property
    def rates(self) -> tuple[Rate, ...]:
        """See dq.rates: shares of the finest grain, by detail and at fixed places."""
        return rates_of(self.config.grains, self.config.grids[0] ** 2)

    def at_rates(
        self, image: Float[Array, "b height width 3"], counts: Bool[Array, "b"]
    ) -> tuple[Float[Array, "rates b height width 3"], dict[str, Float[Array, "rates codes"]]]:
        """The images after a pass through codes of other grains than the router's, and the hits of these codes."""
        self._check_size(image)
        features = self.network.encoder(image)

        def at(grain: Int[Array, "b h w"]) -> tuple[Array, dict[str, Array]]:
            merged, mask = dynamic.merge_grains(features, grain), dynamic.codebook_mask(grain, self.config.grains)
            found = self._quantize(merged, mask)
            return self.network.image(found.quantized), self.code_hits(Codes(found.codes, grain), counts)

        return jax.lax.map(at, grains_at_rates(self.config.routing, self.network.encoder, image, features))

    def perturbed(self, codes: Codes, keys: Key[Array, "b"], share: float, among: int) -> Codes:
        """A share of the codes is one of the `among` nearest to each; all cells of a coarser code keep one code."""
        drawn = choices(keys, codes.codes.shape[1:], share, among)
        chosen, ranks = (dynamic.of_first_cell(x, codes.grain, self.config.grains) for x in drawn)
        changed = near(self.quantizer, codes.codes, ranks, among)
        return dataclasses.replace(codes, codes=jnp.where(chosen, changed, codes.codes))

    def code_maps(self, image: Float[Array, "b height width 3"], codes: Codes) -> dict[str, Array]:
        """`grains`: the image under a veil in the colour of each region's grain, see dq.picture."""
        return {"grains": grain_map(image, codes.grain, self.config.grains)}

    def code_hits(self, codes: Codes, counts: Bool[Array, "b"]) -> dict[str, Float[Array, "codes"]]:
        """How often each code occurs in each grain among the images that count, a code once for all of its cells."""
        c, size = self.config, codes.codes.shape[1:]
        weight = dynamic.codebook_mask(codes.grain, c.grains) * counts[:, None, None]
        cells = repeat(codes.grain, "b h w -> b (h r) (w s)", r=size[0] // c.grids[0], s=size[1] // c.grids[0])
        return {
            name: hits(codes.codes, c.codebook_size, jnp.where(cells == g, weight, 0.0))
            for g, name in enumerate(NAMES[c.grains])
        }

    def code_counts(self, codes: Codes) -> dict[str, Float[Array, "b"]]:
        """`codes_per_image`, and the share of each grain among the image's regions."""
        names, shares = NAMES[self.config.grains], jax.nn.one_hot(codes.grain, self.config.grains).mean(axis=(1, 2))
        counts = {"codes_per_image": dynamic.code_count(codes.grain).astype(jnp.float32)}
        return counts | {f"{name}_fraction": shares[:, g] for g, name in enumerate(names)}
