"""The published RQ-VAE: residual blocks of convolutions, the network of VQ-GAN (Lee et al. 2022, section 3.1)."""

import dataclasses

from rqjax.checks import at_least, one_of
from rqjax.errors import InputError
from rqjax.nets.autoencoder import Decoder, Encoder, LevelConfig, check_attention
from rqjax.nets.init import DTYPES, Rngs
from rqjax.nets.tokenizer import Autoencoder
from rqjax.rq.vae import ResidualConfig


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class RQVAEConfig(LevelConfig, ResidualConfig):
    """An RQ-VAE. The defaults are the model that Lee et al. (2022) trained on ImageNet: 256x256 pixels, 8x8x4 codes."""

    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    attn_resolutions: tuple[int, ...] = (8,)
    remat: bool = True

    @property
    def latent_size(self) -> int:
        return self.resolution >> (len(self.ch_mult) - 1)

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        names = ("resolution", "ch", "num_res_blocks", "z_channels", "ch_mult")
        at_least(1, **{name: getattr(self, name) for name in names})
        halvings = len(self.ch_mult) - 1
        if self.resolution % 2**halvings:
            raise InputError(f"resolution {self.resolution} cannot be halved {halvings} times: shorten ch_mult")
        check_attention(self.resolution, halvings + 1, attn_resolutions=self.attn_resolutions)
        one_of(DTYPES, dtype=self.dtype)
        self.check_codes()

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError for images that are not a multiple of the network's stride, or of the window of a code."""
        stride = 2 ** (len(self.ch_mult) - 1)
        rows, columns = (stride * window for window in self.window)
        if height % rows or width % columns:
            raise InputError(f"images of {height}x{width}: expected multiples of {rows}x{columns}")

    def network(self, rngs: Rngs) -> Autoencoder:
        return Autoencoder(Encoder(self, rngs), Decoder(self, rngs), self, self.embed_dim, rngs)
