"""A DQ-VAE whose encoder and decoder are transformers over patches."""

import dataclasses

from rqjax.dq.grains import PatchGrainEncoder
from rqjax.dq.vae import GrainConfig
from rqjax.errors import InputError
from rqjax.nets.init import Rngs
from rqjax.nets.patches import PatchConfig, PatchDecoder
from rqjax.nets.tokenizer import Autoencoder


@dataclasses.dataclass(kw_only=True, unsafe_hash=True)
class PatchDQVAEConfig(PatchConfig, GrainConfig):
    """A DQ-VAE whose networks are transformers over patches, those of its finest grid; sizes of ViT-VQGAN's Base."""

    @property
    def grids(self) -> tuple[int, ...]:
        return tuple(self.grid >> (self.grains - 1 - g) for g in range(self.grains))

    def check(self) -> None:
        """Raises InputError for values that make no model."""
        self.check_patches()
        if self.grains not in (2, 3) or self.grid % 2 ** (self.grains - 1):
            raise InputError(
                f"grains is {self.grains} on {self.grid}x{self.grid} patches: expected 2 or 3, and a grid"
                " that can be halved for all but one"
            )
        self.routing.check(self.grids, self.dim)
        self.check_codes()

    def network(self, rngs: Rngs) -> Autoencoder:
        router = self.routing.feature_router(self.dim, self.grains, rngs)
        encoder = PatchGrainEncoder(self, self.grains, router, rngs)
        return Autoencoder(encoder, PatchDecoder(self, rngs), self, self.embed_dim, rngs)
