"""An RQ-VAE whose encoder and decoder are transformers over patches."""

import dataclasses

from rqjax.errors import InputError
from rqjax.nets.init import Rngs
from rqjax.nets.patches import PatchConfig, PatchDecoder, PatchEncoder
from rqjax.nets.tokenizer import Autoencoder
from rqjax.rq.vae import ResidualConfig


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class PatchRQVAEConfig(PatchConfig, ResidualConfig):
    """An RQ-VAE whose networks are transformers over patches, as in ViT-VQGAN (Yu et al. 2022).

    The defaults are that paper's Base networks with the codes of Lee et al. (2022): 256x256 pixels, 8x8x4 codes, each
    position of which stands for 4x4 patches.
    """

    embed_dim: int = 16

    @property
    def latent_size(self) -> int:
        return self.grid

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        self.check_patches()
        self.check_codes()

    def check_size(self, height: int, width: int) -> None:
        """Raises InputError for images of another size than the learned positions have."""
        if (height, width) != (self.resolution, self.resolution):
            raise InputError(
                f"images of {height}x{width}: this model expects {self.resolution}x{self.resolution}, resize them"
            )

    def network(self, rngs: Rngs) -> Autoencoder:
        return Autoencoder(PatchEncoder(self, rngs), PatchDecoder(self, rngs), self, self.embed_dim, rngs)
