"""DQ-VAE: an image as codes of two or three grains, more where it has more to say (Huang et al. 2023, section 3.1)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from rqjax.checks import at_least
from rqjax.dq.grains import POSITIONS, GrainEncoder, PositionalDecoder
from rqjax.dq.router import NAMES
from rqjax.dq.routing import Routed, Routing, RoutingConfig, budget, route
from rqjax.errors import InputError
from rqjax.nets.autoencoder import conv
from rqjax.quantize import dynamic
from rqjax.quantize.codebook import Codebook, perplexity, usage
from rqjax.quantize.dynamic import Codes
from rqjax.rq.vae import DTYPES, Forward


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class DQVAEConfig:
    """A DQ-VAE. The defaults are the dual-grain model of Huang et al. (2023) for ImageNet, routed by features."""

    resolution: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    attn_resolutions: tuple[int, ...] = (16, 32)
    decoder_ch: int = 128
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2)
    decoder_num_res_blocks: int = 2
    decoder_attn_resolutions: tuple[int, ...] = (32,)
    position: str = "fourier+learned"  # added to the decoder's input, one of dq.grains.POSITIONS
    window_size: int = 2  # of position "learned-relative", in cells of the finest grid
    z_channels: int = 256
    embed_dim: int = 256
    codebook_size: int = 1024
    decay: float = 0.99
    restart_threshold: float = 1.0  # a count of vectors; 0 turns restarts off
    commitment_weight: float = 0.25
    grains: int = 2
    routing: RoutingConfig = dataclasses.field(default_factory=RoutingConfig)
    dtype: str = "float32"  # of computation; parameters are float32
    remat: bool = False

    @property
    def grids(self) -> tuple[int, ...]:
        """The side of each grain's grid, from coarse to fine."""
        coarse = self.resolution >> (len(self.ch_mult) - 1)
        return tuple(coarse << g for g in range(self.grains))

    @property
    def patch(self) -> int:
        """The side of a region in pixels."""
        return self.resolution // self.grids[0]

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        self._check_levels()
        self.routing.check(self.grids, self.z_channels)
        if self.position not in POSITIONS:
            raise InputError(f"position is {self.position!r}: expected one of {', '.join(POSITIONS)}")
        if self.position == "learned-relative" and (self.window_size < 1 or self.grids[-1] % self.window_size):
            raise InputError(f"windows of {self.window_size} do not divide the finest grid of {self.grids[-1]}")
        if not 0 <= self.decay < 1 or self.restart_threshold < 0:
            raise InputError(
                f"decay is {self.decay} and restart_threshold {self.restart_threshold}: expected [0, 1) and at least 0"
            )
        if self.dtype not in DTYPES:
            raise InputError(f"dtype is {self.dtype!r}: expected one of {', '.join(DTYPES)}")

    def _check_levels(self) -> None:
        names = ("resolution", "ch", "num_res_blocks", "decoder_ch", "z_channels", "embed_dim", "codebook_size")
        at_least(1, **{name: getattr(self, name) for name in (*names, "ch_mult")})
        levels = len(self.ch_mult)
        if self.grains not in (2, 3) or levels < self.grains:
            raise InputError(
                f"grains is {self.grains} for {levels} levels in ch_mult: expected 2 or 3, and as many levels"
            )
        if self.resolution % 2 ** (levels - 1):
            raise InputError(f"grains do not divide: resolution {self.resolution} cannot be halved {levels - 1} times")
        if len(self.decoder_ch_mult) != levels - self.grains + 1:
            raise InputError(
                f"decoder_ch_mult has {len(self.decoder_ch_mult)} levels, the finest grain of {self.grids[-1]} needs "
                f"{levels - self.grains + 1} to reach {self.resolution}: change one of them"
            )
        for name, count in (("attn_resolutions", levels), ("decoder_attn_resolutions", len(self.decoder_ch_mult))):
            sizes = [self.resolution >> i for i in range(count)]
            if strange := [size for size in getattr(self, name) if size not in sizes]:
                raise InputError(f"{name} {strange} never occur: the levels have {sizes}")

    def init(self, key: Key[Array, ""]) -> "DQVAE":
        """A new model; random values as PyTorch would draw them, codebook U(-1/codebook_size, 1/codebook_size).

        The averages start at these vectors and at no hits; the reference starts the former at other random ones.
        """
        network_key, key = jax.random.split(key)
        size = self.codebook_size
        embed = jax.random.uniform(key, (size, self.embed_dim), minval=-1 / size, maxval=1 / size)
        book = Codebook(embed=embed, count=jnp.zeros(size), total=jnp.array(embed, copy=True))
        return DQVAE(
            network=Network(self, rngs=nnx.Rngs(network_key)),
            codebooks=(book,),
            padding=jnp.zeros(self.embed_dim),
            routing=self.routing.settings(self.grids, self.resolution),
            decay=self.decay,
            restart_threshold=self.restart_threshold,
            commitment_weight=self.commitment_weight,
        )


class Network(nnx.Module):
    """All that gradients train: encoder and router, decoder and positions, a 1x1 convolution beside each."""

    def __init__(self, config: DQVAEConfig, *, rngs: nnx.Rngs):
        dtype = DTYPES[config.dtype]
        more: dict[str, Any] = {"dtype": dtype, "remat": config.remat, "rngs": rngs, "z_channels": config.z_channels}
        router = config.routing.feature_router(config.z_channels, config.grains, rngs)
        names = ("ch", "ch_mult", "num_res_blocks", "attn_resolutions")
        sizes: dict[str, Any] = {name: getattr(config, name) for name in ("resolution", *names)}
        self.encoder = GrainEncoder(grains=config.grains, router=router, **sizes, **more)
        sizes = {name: getattr(config, f"decoder_{name}") for name in names} | {"resolution": config.resolution}
        places: dict[str, Any] = {"position": config.position, "window_size": config.window_size}
        self.decoder = PositionalDecoder(latent_size=config.grids[-1], **places, **sizes, **more)
        # latents in float32, so that codes don't hang on rounding
        self.quant_conv = conv(config.z_channels, config.embed_dim, 1, rngs=rngs, dtype=jnp.float32)
        self.post_quant_conv = conv(config.embed_dim, config.z_channels, 1, rngs=rngs, dtype=dtype)

    def features(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width c"]:
        """The input of the decoder's last layer for a latent map."""
        return self.decoder.features(self.post_quant_conv(z))

    def image(self, z: Float[Array, "b h w dim"]) -> Float[Array, "b height width 3"]:
        """The image for a latent map, float32, not clamped."""
        return self.decoder.conv_out(self.features(z)).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DQVAE:
    """A DQ-VAE as stages see a tokenizer. Images are [b height width 3] in [-1, 1], of the configured resolution."""

    network: Any
    codebooks: Any  # one, which all grains share
    padding: Any  # [dim], the row that an official codebook holds behind the last code; never looked up
    routing: Routing = dataclasses.field(metadata={"static": True})
    decay: float = dataclasses.field(metadata={"static": True})
    restart_threshold: float = dataclasses.field(metadata={"static": True})
    commitment_weight: float = dataclasses.field(metadata={"static": True})

    @property
    def grids(self) -> tuple[int, ...]:
        """The side of each grain's grid, from coarse to fine."""
        return self.routing.grids

    def with_codebooks(self, codebooks: tuple[Codebook, ...]) -> "DQVAE":
        """This model with other codebooks."""
        return dataclasses.replace(self, codebooks=codebooks)

    def train_forward(
        self,
        network: Network,
        image: Float[Array, "b height width 3"],
        key: Key[Array, ""],
        noise: Float[Array, "b h w grains"] | None = None,
    ) -> Forward:
        """One pass of the training mode; `noise`, Gumbel(0, 1) per region and grain, comes from `key` if not given."""
        self._check_size(image)
        noise_key, restart_key = jax.random.split(key)
        if noise is None:
            regions = (image.shape[0], self.grids[0], self.grids[0])
            noise = jax.random.gumbel(noise_key, (*regions, len(self.grids)))
        routed = route(self.routing, network.encoder, image, noise)
        z = network.quant_conv(routed.merged)
        found = dynamic.quantize(self.codebooks[0], z, routed.mask, self.commitment_weight)
        learned = dynamic.learn(self.codebooks[0], z, found.codes, restart_key, self.decay, self.restart_threshold)
        features = network.features(found.quantized)
        cost = budget(self.routing, routed.gate)
        metrics = {"commitment": found.loss, "budget": cost, "restarted": learned[1]}
        return Forward(
            reconstruction=network.decoder.conv_out(features).astype(jnp.float32),
            features=features,
            loss=found.loss + cost,
            codebooks=(learned[0],),
            metrics=metrics | self._measures(found.codes, routed.grain),
        )

    def _measures(self, codes: Array, grain: Array) -> dict[str, Array]:
        """How much of the book the cells use, the share of each grain, and how many codes an image takes."""
        size = self.codebooks[0].size
        shares = zip(NAMES[len(self.grids)], dynamic.grain_fractions(grain, len(self.grids)), strict=True)
        return {
            "usage": usage(codes, size),
            "perplexity": perplexity(codes, size),
            "codes_per_image": jnp.mean(dynamic.code_count(grain).astype(jnp.float32)),
            **{f"{name}_fraction": share for name, share in shares},
        }

    def _check_size(self, image: Array) -> None:
        side = self.routing.patch * self.grids[0]
        if image.shape[1:3] != (side, side):
            raise InputError(
                f"images of {image.shape[1]}x{image.shape[2]}: this model expects {side}x{side}, resize them"
            )

    def route(self, image: Float[Array, "b height width 3"]) -> Routed:
        """An image after the choice of grains, in evaluation mode."""
        self._check_size(image)
        return route(self.routing, self.network.encoder, image, None)

    def quantize(self, image: Float[Array, "b height width 3"]) -> tuple[dynamic.DynamicQuantized, Int[Array, "b h w"]]:
        """All that the quantizer says about an image in evaluation mode, and the grain of each region."""
        routed = self.route(image)
        z = self.network.quant_conv(routed.merged)
        return dynamic.quantize(self.codebooks[0], z, routed.mask, self.commitment_weight), routed.grain

    def reconstruct_as(
        self, image: Float[Array, "b height width 3"], grain: Int[Array, "b h w"]
    ) -> Float[Array, "b height width 3"]:
        """The image after a pass through codes of the given grains, whatever the router would choose."""
        self._check_size(image)
        z = self.network.quant_conv(dynamic.merge_grains(self.network.encoder(image), grain))
        mask = dynamic.codebook_mask(grain, len(self.grids))
        return self.network.image(dynamic.quantize(self.codebooks[0], z, mask, self.commitment_weight).quantized)

    def encode(self, image: Float[Array, "b height width 3"]) -> Codes:
        """The codes and grains of an image."""
        found, grain = self.quantize(image)
        return Codes(codes=found.codes, grain=grain)

    def decode_codes(self, codes: Codes) -> Float[Array, "b height width 3"]:
        """The image that codes stand for, not clamped; each cell's code is looked up, whatever its grain."""
        return self.network.image(self.codebooks[0].embed[codes.codes])

    def reconstruct(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """The image after a pass through its codes, not clamped."""
        return self.network.image(self.quantize(image)[0].quantized)
