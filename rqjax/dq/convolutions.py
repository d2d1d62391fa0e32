"""The published DQ-VAE: residual blocks of convolutions, whose encoder has a map for each grain (Huang et al. 2023)."""

import dataclasses

from rqjax.checks import at_least, one_of
from rqjax.dq.grains import POSITIONS, GrainEncoder, PositionalDecoder
from rqjax.dq.vae import GrainConfig
from rqjax.errors import InputError
from rqjax.nets.autoencoder import LevelConfig, check_attention
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.tokenizer import Autoencoder


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class DQVAEConfig(LevelConfig, GrainConfig):
    """A DQ-VAE. The defaults are the dual-grain model of Huang et al. (2023) for ImageNet, routed by features."""

    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    attn_resolutions: tuple[int, ...] = (16, 32)
    decoder_ch: int = 128  # channels of the decoder's level of multiplier 1
    decoder_ch_mult: tuple[int, ...] = (1, 1, 2, 2)  # the width of each of its levels over `decoder_ch`
    decoder_num_res_blocks: int = 2  # of each of its levels, and one more
    decoder_attn_resolutions: tuple[int, ...] = (32,)  # sides of its maps that have attention
    position: str = "fourier+learned"  # added to the decoder's input, one of dq.grains.POSITIONS
    window_size: int = 2  # of relative positions, in cells of the finest grid
    remat: bool = False

    @property
    def grids(self) -> tuple[int, ...]:
        coarse = self.resolution >> (len(self.ch_mult) - 1)
        return tuple(coarse << g for g in range(self.grains))

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        self._check_levels()
        self.routing.check(self.grids, self.z_channels)
        one_of(POSITIONS, position=self.position)
        if self.position == "learned-relative" and (self.window_size < 1 or self.grids[-1] % self.window_size):
            raise InputError(f"windows of {self.window_size} do not divide the finest grid of {self.grids[-1]}")
        one_of(DTYPES, dtype=self.dtype)
        self.check_codes()

    def _check_levels(self) -> None:
        names = ("resolution", "ch", "num_res_blocks", "decoder_ch", "z_channels")
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
        check_attention(self.resolution, levels, attn_resolutions=self.attn_resolutions)
        decoder_levels = len(self.decoder_ch_mult)
        check_attention(self.resolution, decoder_levels, decoder_attn_resolutions=self.decoder_attn_resolutions)

    def network(self, rngs: Rngs) -> Autoencoder:
        of_decoder = dataclasses.replace(
            self,
            ch=self.decoder_ch,
            ch_mult=self.decoder_ch_mult,
            num_res_blocks=self.decoder_num_res_blocks,
            attn_resolutions=self.decoder_attn_resolutions,
        )
        size, window = self.grids[-1], self.window_size
        router = self.routing.feature_router(self.z_channels, self.grains, rngs)
        encoder = GrainEncoder(self, self.grains, router, rngs)
        decoder = PositionalDecoder(of_decoder, position=self.position, latent_size=size, window_size=window, rngs=rngs)
        return Autoencoder(encoder, decoder, self, self.embed_dim, rngs)
