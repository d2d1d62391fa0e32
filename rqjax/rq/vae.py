"""RQ-VAE: an image as a small grid of codes, several to a position, and back (Lee et al. 2022, section 3.1)."""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Scalar

from rqjax.checks import at_least, frozen
from rqjax.errors import InputError
from rqjax.interface import BY_DEPTH, Batch, Forward, Quantized, Rate
from rqjax.nets.init import Rngs
from rqjax.nets.tokenizer import Autoencoder, LastLayer
from rqjax.quantize.config import QuantizerConfig
from rqjax.quantize.histogram import hits
from rqjax.quantize.perturb import choices, near
from rqjax.quantize.pytree import pytree, static
from rqjax.quantize.residual import ResidualQuantizer


@dataclasses.dataclass(kw_only=True)
class ResidualConfig(abc.ABC):
    """The part of an RQ-VAE's configuration that does not depend on the kind of its networks."""

    resolution: int  # of the images
    embed_dim: int = 256  # width of the latent map; a code's vector has that of its whole window
    code_shape: tuple[int, int] = (8, 8)  # positions of codes, down and across: divisors of the latent map's side
    quantizer: QuantizerConfig = dataclasses.field(default_factory=QuantizerConfig)  # the codes of a position

    @property
    @abc.abstractmethod
    def latent_size(self) -> int:
        """The side of the encoder's output."""

    @abc.abstractmethod
    def check(self) -> None:
        """Raises InputError for values that make no model."""

    @abc.abstractmethod
    def check_size(self, height: int, width: int) -> None:
        """Raises InputError for images of a size that the networks do not take."""

    @abc.abstractmethod
    def network(self, rngs: Rngs) -> Autoencoder:
        """The encoder and the decoder, with random values."""

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the part of the latent map that shares its codes."""
        return self.latent_size // self.code_shape[0], self.latent_size // self.code_shape[1]

    @property
    def code_dim(self) -> int:
        """The width of a code's vector: all of a window."""
        return self.window[0] * self.window[1] * self.embed_dim

    def check_codes(self) -> None:
        """Raises InputError for codes that don't fit the latent map."""
        at_least(1, embed_dim=self.embed_dim, code_shape=self.code_shape)
        if any(self.latent_size % side for side in self.code_shape):
            latent = (self.latent_size, self.latent_size)
            raise InputError(
                f"a code grid of {tuple(self.code_shape)} does not divide the latent grid {latent}: choose divisors"
            )
        try:
            self.quantizer.check(self.code_dim)
        except ValueError as error:
            raise InputError(str(error)) from None

    def init(self, key: Key[Array, ""]) -> "RQVAE":
        """A new model; random values as PyTorch would draw them, codebooks N(0, 1)."""
        network_key, key = jax.random.split(key)
        config = frozen(self)
        return RQVAE(self.network(Rngs(network_key)), config.quantizer.init(key, config.code_dim), config)


@pytree
@dataclasses.dataclass(frozen=True)
class RQVAE:
    """An RQ-VAE: a Tokenizer with codes [b h w depth]. Images are [b height width 3] in [-1, 1]."""

    network: Autoencoder
    quantizer: ResidualQuantizer
    config: ResidualConfig = static()  # noqa: RUF009

    @property
    def trained(self) -> PyTree[Array]:
        """The network, or with a quantizer that gradients train both of them, by name."""
        if self.quantizer.parameters is None:
            return self.network
        return {"network": self.network, "quantizer": self.quantizer.parameters}

    def with_trained(self, trained: PyTree[Array]) -> "RQVAE":
        if self.quantizer.parameters is None:
            return dataclasses.replace(self, network=trained)
        quantizer = self.quantizer.with_parameters(trained["quantizer"])
        return dataclasses.replace(self, network=trained["network"], quantizer=quantizer)

    def with_quantizer(self, quantizer: ResidualQuantizer) -> "RQVAE":
        own = self.quantizer.parameters
        return dataclasses.replace(self, quantizer=quantizer if own is None else quantizer.with_parameters(own))

    @property
    def last_layer(self) -> LastLayer:
        return self.network.last_layer

    def train_forward(self, image: Float[Array, "b height width 3"], key: Key[Array, ""]) -> Forward:
        """One pass in training mode: gradients reach the network through the codes, and by the quantizer's loss."""
        found, quantizer = self._quantize(image, key, train=True)
        features = self.network.features(self._unfold(found.quantized))
        return Forward(
            reconstruction=self.last_layer(features),
            features=features,
            loss=found.loss,
            quantizer=quantizer,
            metrics=_by_depth(found.metrics),
        )

    def _quantize(self, image: Array, key: Key[Array, ""], *, train: bool) -> tuple[Quantized, ResidualQuantizer]:
        return self.quantizer.encode(self.vectors_of(image), key, train)

    def _fold(self, z: Float[Array, "b height width dim"]) -> Float[Array, "b h w folded"]:
        """The latent map on the grid of codes: the vectors of a window become one."""
        rows, columns = self.config.window
        return rearrange(z, "b (h r) (w c) d -> b h w (r c d)", r=rows, c=columns)

    def _unfold(self, z: Float[Array, "b h w folded"]) -> Float[Array, "b height width dim"]:
        """The inverse of `_fold`."""
        rows, columns = self.config.window
        return rearrange(z, "b h w (r c d) -> b (h r) (w c) d", r=rows, c=columns)

    def latent(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w dim"]:
        """The encoder's output, float32, before quantization.

        Raises InputError for images of a size that the networks do not take.
        """
        self.config.check_size(*image.shape[1:3])
        return self.network.quant_conv(self.network.encoder(image))

    def vectors_of(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b h w folded"]:
        """The vectors of an image before quantization, on the grid of codes."""
        return self._fold(self.latent(image))

    def quantize(self, image: Float[Array, "b height width 3"]) -> Quantized:
        """The quantizer's result for an image in evaluation mode, on the grid of codes."""
        return self._quantize(image, jax.random.key(0), train=False)[0]  # evaluation draws nothing

    def encode(self, image: Float[Array, "b height width 3"]) -> Int[Array, "b h w depth"]:
        """The codes of an image."""
        return self.quantize(image).codes

    def latents(self, image: Float[Array, "b height width 3"], *, vectors: bool) -> Array:
        """The vectors of an image before quantization in bfloat16, [b h w folded], or its codes, [b h w depth]."""
        return self.vectors_of(image).astype(jnp.bfloat16) if vectors else self.encode(image)

    def codes_of(self, batch: Batch) -> Int[Array, "b h w depth"]:
        """The codes of a batch's images in [-1, 1], or of its latents."""
        if "latent" not in batch:
            return self.encode(batch["image"])
        if jnp.issubdtype(batch["latent"].dtype, jnp.integer):
            return batch["latent"].astype(jnp.int32)
        vectors = batch["latent"].astype(jnp.float32)
        return self.quantizer.encode(vectors, jax.random.key(0), False)[0].codes  # evaluation draws nothing

    @property
    def levels(self) -> int:
        """The depths."""
        return self.quantizer.depth

    @property
    def code_sizes(self) -> Int[Array, "1 h w depth"]:
        """The codebook's size at each depth of each position."""
        return jnp.broadcast_to(jnp.asarray(self.quantizer.sizes), (1, *self.config.code_shape, self.levels))

    def keep_first(self, codes: Int[Array, "b h w depth"], rows: int, levels: int) -> Int[Array, "b h w depth"]:
        """The codes of the first `rows` rows and the first `levels` depths; -1 in the place of all others."""
        _, h, _, depth = codes.shape
        kept = (jnp.arange(h)[:, None, None] < rows) & (jnp.arange(depth) < levels)
        return jnp.where(kept, codes, -1)

    def vectors(self, codes: Int[Array, "b h w d"]) -> Float[Array, "b h w folded"]:
        """The sum of the vectors of a position's codes, on the grid of codes. A code of -1 adds nothing."""
        vectors = self.quantizer.vectors(jnp.maximum(codes, 0))
        return jnp.sum(jnp.where(codes[..., None] < 0, 0, vectors), axis=-2)

    def decode_vectors(self, vectors: Float[Array, "b h w folded"]) -> Float[Array, "b height width 3"]:
        """The image for a map of vectors on the grid of codes, not clamped."""
        return self.network.image(self._unfold(vectors))

    def decode_codes(self, codes: Int[Array, "b h w d"]) -> Float[Array, "b height width 3"]:
        """The image for codes, or for those of the first `d` depths, not clamped. A code of -1 adds nothing."""
        return self.decode_vectors(self.vectors(codes))

    def reconstruct(self, image: Float[Array, "b height width 3"]) -> Float[Array, "b height width 3"]:
        """The image after a pass through its codes, not clamped."""
        return self.network.image(self._unfold(self.quantize(image).quantized))

    def progressive(self, image: Float[Array, "b height width 3"]) -> Float[Array, "depth b height width 3"]:
        """The images from the first 1, 2, ... codes of every position, one depth at a time."""
        return jax.lax.map(lambda z: self.network.image(self._unfold(z)), self.quantize(image).partial)

    @property
    def rates(self) -> tuple[Rate, ...]:
        """The first 1, 2, ... depths."""
        return tuple(Rate(BY_DEPTH, float(depth + 1), 0.0) for depth in range(self.levels))

    def at_rates(
        self, image: Float[Array, "b height width 3"], counts: Bool[Array, "b"]
    ) -> tuple[Float[Array, "depth b height width 3"], dict[str, Float[Array, "depth codes"]]]:
        """`progressive`, and the hits of the depths that each image is made of."""
        found, depths = self.code_hits(self.encode(image), counts), jnp.arange(1, self.levels + 1)
        seen = {name: jnp.where(depths[:, None] >= int(name), each, 0.0) for name, each in found.items()}
        return self.progressive(image), seen

    def perturbed(
        self, codes: Int[Array, "b h w depth"], keys: Key[Array, "b"], share: float, among: int
    ) -> Int[Array, "b h w depth"]:
        """Codes of which, at a share of the positions, each of the stack is one of the `among` nearest to it."""
        chosen, ranks = choices(keys, codes.shape[1:], share, among)
        books = self.quantizer.codebooks * (self.levels if len(self.quantizer.codebooks) == 1 else 1)
        each = [near(book, codes[..., d], ranks[..., d], among) for d, book in enumerate(books)]
        return jnp.where(chosen[..., :1], jnp.stack(each, axis=-1), codes)  # the choice is of positions

    def code_maps(self, image: Float[Array, "b height width 3"], codes: Int[Array, "b h w depth"]) -> dict[str, Array]:
        """None: every position has the same number of codes."""
        return {}

    def code_hits(self, codes: Int[Array, "b h w depth"], counts: Bool[Array, "b"]) -> dict[str, Float[Array, "codes"]]:
        """How often each code of each depth occurs among the images that count: "1", "2" ..."""
        each = jnp.broadcast_to(counts[:, None, None], codes.shape[:-1])
        return {str(d + 1): hits(codes[..., d], size, each) for d, size in enumerate(self.quantizer.sizes)}

    def code_counts(self, codes: Int[Array, "b h w depth"]) -> dict[str, Float[Array, "b"]]:
        """None: all images have the same number of codes."""
        return {}

    def sample_codes(
        self,
        image: Float[Array, "b height width 3"],
        key: Key[Array, ""],
        temperature: float | Scalar,
        stochastic: bool,
        chunk: int = 8,
    ) -> tuple[Int[Array, "b h w depth"], Float[Array, "b h w depth dim"]]:
        """Codes drawn from the soft codes of an image, and the residuals they were drawn for; see draw_codes."""
        return self.draw_codes(self.vectors_of(image), key, temperature, stochastic, chunk)

    def draw_codes(
        self,
        z: Float[Array, "b h w folded"],
        key: Key[Array, ""],
        temperature: float | Scalar,
        stochastic: bool,
        chunk: int = 8,
    ) -> tuple[Int[Array, "b h w depth"], Float[Array, "b h w depth dim"]]:
        """Codes drawn from the soft codes of vectors_of() an image, and their residuals (section 3.2.3).

        At most `chunk` positions of an image are looked at together, which changes no result. The quantizer must have
        soft codes: priors check it.
        """
        vectors = rearrange(z, "b h w d -> b (h w) d")
        codes, residuals = self.quantizer.draw(vectors, key, temperature, stochastic, chunk)
        codes = rearrange(codes, "b (h w) depth -> b h w depth", h=z.shape[1])
        return codes, rearrange(residuals, "b (h w) depth d -> b h w depth d", h=z.shape[1])


def _by_depth(metrics: dict[str, Array]) -> dict[str, Array]:
    """Scalars by name: usage_1, usage_2 and so on."""
    named = {}
    for name, values in metrics.items():
        named |= {f"{name}_{i + 1}": value for i, value in enumerate(values)} if values.ndim else {name: values}
    return named
