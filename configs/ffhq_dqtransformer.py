"""DQ-Transformer on FFHQ at 256x256: the release's unconditional p6c18 on the tokenizer of configs/ffhq_dqvae.py.

308,884,480 parameters. Batch 240 and 100 epochs are those of the release's ImageNet file: 25,000 steps. A digest of the
paper quotes an FID of 4.91 on FFHQ; whether this recipe gives it was not verified.
    rqjax train --config ffhq_dqtransformer --workdir runs/ffhq_dqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/ffhq_dqvae
"""

from rqjax.errors import InputError
from rqjax.run.config import Config, load_file, tokenizer_of
from rqjax.stages.predict import PredictConfig

EPOCH = 250  # steps: 60,000 images in batches of 240


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    config = load_file("imagenet_dqtransformer", "uncond")
    assert isinstance(config.stage, PredictConfig)
    config.stage.tokenizer = tokenizer_of("ffhq_dqvae")
    config.data.crop = "random_resized"
    config.steps, config.save_every = 100 * EPOCH, EPOCH
    return config
