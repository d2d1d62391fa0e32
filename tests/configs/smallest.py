"""Runs whose processes start fast, to be killed, and where rounding grows slowly: 8x8 pixels, codes of two depths."""

from rqjax.run.config import Config
from tests.configs.tiny import get_config as tiny


def get_config(variant: str = "rqvae") -> Config:
    config = tiny(variant)
    config.data.resize = config.data.size = 8
    config.save_every = config.log_every = 1
    config.stage.optimizer.learning_rate = 2e-5
    tokenizer = config.stage.model if variant == "rqvae" else config.stage.tokenizer
    tokenizer.resolution, tokenizer.ch_mult, tokenizer.quantizer.depth = 8, (1, 1), 2
    if variant == "rqtransformer":
        config.stage.model.depth, config.stage.accumulate = 2, 1
    return config
