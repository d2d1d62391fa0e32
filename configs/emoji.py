"""Text to image that trains here: emoji of 64x64 pixels in colour, with their Unicode names as captions.

The set comes from two npm packages, both MIT: @lobehub/fluent-emoji-3d (the images) and emojibase-data (the names).
    npm pack @lobehub/fluent-emoji-3d emojibase-data      # two archives; unpack each into a folder of its own
    .venv/bin/python examples/emoji_set.py --images fluent/assets --names emojibase/en/data.json --out data/emoji
    .venv/bin/python launch/vocabulary.py --captions data/emoji --size 1024 --out data/emoji/vocabulary
    .venv/bin/rqjax train --config emoji:rqvae --workdir runs/emoji
    .venv/bin/rqjax train --config emoji:rqtransformer --workdir runs/emoji_prior \
        --config.stage.tokenizer_path=runs/emoji
    .venv/bin/rqjax sample --prior runs/emoji_prior --text "a red apple" --count 8 --out apple.png
Variants of an emoji (tones of skin, women and men) are on one side of the split. Images become an 8x8 map of stacks of
4 codes out of 512; captions have up to 16 tokens of 1024. Loss: 0.9 image + 0.1 text, as the CC-3M model of the paper;
a tenth of the captions is left out while training, so that samples can be guided.
`dqvae` and `dqtransformer` in their place are the same with dynamic codes: of 8x8 regions the 32 with the highest
entropy get 4 codes out of 512, the others one: 160 codes. The prior reads captions by cross-attention.
"""

from rqjax.data import DataConfig
from rqjax.dq.patches import PatchDQVAEConfig
from rqjax.dq.routing import RoutingConfig
from rqjax.dq.transformer import DQTransformerConfig
from rqjax.errors import InputError
from rqjax.interface import TokenizerConfig
from rqjax.optim import OptimizerConfig
from rqjax.quantize.config import QuantizerConfig
from rqjax.rq.patches import PatchRQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.autoencode import AutoencodeConfig
from rqjax.stages.predict import PredictConfig

PATH = "data/emoji"
TOKENS, LENGTH = 1024, 16
VARIANTS = {
    "rqvae": "an 8x8 map of stacks of 4 codes",
    "rqtransformer": "the prior of these codes, led by captions",
    "dqvae": "8x8 regions of one code or four",
    "dqtransformer": "the prior of these codes, led by captions",
}
"""Names, the default first, for `rqjax configs`."""
RQVAE = PatchRQVAEConfig(
    resolution=64,
    patch_size=8,
    dim=128,
    layers=2,
    heads=4,
    sigmoid_gelu=True,
    embed_dim=64,
    code_shape=(8, 8),
    # most of an emoji is white: codes of the rest are rare, and would restart for ever at the default of 1
    quantizer=QuantizerConfig(codebook_size=(512,), depth=4, decay=(0.97,), restart_threshold=0.1),
)
RQTRANSFORMER = RQTransformerConfig(
    code_shape=(8, 8),
    depth=4,
    codebook_size=(512,),
    input_dim=64,
    dim=192,
    body_layers=4,
    head_layers=1,
    body_heads=4,
    head_heads=4,
    text_vocab=TOKENS,
    text_length=LENGTH,
    image_loss_weight=0.9,
    text_loss_weight=0.1,
    condition_dropout=0.1,
    dropout=0.1,
    # the papers' 0.5 is for code vectors of 256 dimensions; at 64, where distances are smaller, it drowns them
    temperature=0.01,
    loss_chunk=64,
    dtype="float32",
    remat=False,
)
DQVAE = PatchDQVAEConfig(
    resolution=64,
    patch_size=4,
    dim=128,
    layers=2,
    heads=4,
    sigmoid_gelu=True,
    embed_dim=64,
    codebook_size=512,
    decay=0.97,
    restart_threshold=0.1,
    # exactly half of each image's regions are fine, those with the highest entropy
    routing=RoutingConfig(
        router="entropy", exact_ratio=True, budget_weight=0.0, groups=0, layers=1, entropy_bins="-1_1"
    ),
)
DQTRANSFORMER = DQTransformerConfig(
    grids=(8, 16),
    codebook_size=512,
    text_vocab=TOKENS,
    text_length=LENGTH,
    text_dim=128,
    text_layers=2,
    text_heads=4,
    condition_dropout=0.1,
    order="region-first",
    dim=128,
    heads=4,
    position_layers=1,
    content_layers=3,
    block_size=260,
    embedding_dropout=0.0,
    attention_dropout=0.0,
    # every image has 160 codes, with starts and ends 164 tokens: two fill a row
    pack=True,
    pack_groups=0,
    row_length=328,
    rows_per_image=0.5,
    loss_chunk=328,
    dtype="float32",
    remat=False,
)


def get_config(variant: str = "rqvae") -> Config:
    makers = {
        "rqvae": lambda: _tokenizer(RQVAE),
        "rqtransformer": lambda: _prior(RQTRANSFORMER, RQVAE, steps=3_000, guidance=1.5),
        "dqvae": lambda: _tokenizer(DQVAE),
        "dqtransformer": lambda: _prior(DQTRANSFORMER, DQVAE, steps=2_000, guidance=3.0),
    }
    if variant not in makers:
        raise InputError(f"variant {variant!r}: expected one of {', '.join(makers)}")
    return makers[variant]()


def _tokenizer(model: TokenizerConfig) -> Config:
    stage = AutoencodeConfig(
        model=model,
        perceptual_weight=0.0,
        disc_weight=0.0,
        disc_loss_weight=0.0,
        disc_ndf=32,
        disc_groups=1,
        optimizer=OptimizerConfig(
            name="adamw", learning_rate=2e-3, warmup_steps=50, schedule="cosine", b1=0.9, b2=0.95, clip_norm=1.0
        ),
    )
    data = DataConfig(name="captions", path=PATH, resize=64, size=64, batch=32, threads=2)
    return Config(stage=stage, data=data, steps=1_000, log_every=50, preview_every=500, save_every=500)


def _prior(
    model: RQTransformerConfig | DQTransformerConfig, tokenizer: TokenizerConfig, *, steps: int, guidance: float
) -> Config:
    stage = PredictConfig(model=model, tokenizer=tokenizer, top_p=0.9, guidance=guidance)
    stage.optimizer.learning_rate, stage.optimizer.warmup_steps = 2e-3, 100
    data = DataConfig(
        name="captions",
        path=PATH,
        vocabulary=f"{PATH}/vocabulary",
        text_length=LENGTH,
        text_dropout=0.1,
        resize=64,
        size=64,
        batch=32,
        threads=2,
    )
    return Config(stage=stage, data=data, steps=steps, log_every=50, preview_every=500, save_every=500)
