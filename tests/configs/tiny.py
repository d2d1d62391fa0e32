"""Runs of seconds, for tests of everything around the models: variants of configs/quickstart.py, made smaller.

Their tokenizers have the papers' convolutions, and nothing guides their priors, as in the official release.
"""

from rqjax.dq.routing import RoutingConfig
from rqjax.run.config import Config, load_file

CONVOLUTIONAL = {"rqvae": "rqvae-conv", "dqvae": "dqvae-conv", "dqvae-fixed": "dqvae-conv"}
"""The variants of the quickstart that stand for others."""


def get_config(variant: str = "rqvae") -> Config:
    config = load_file("quickstart", CONVOLUTIONAL.get(variant, variant))
    config.steps, config.log_every, config.save_every, config.preview_every = 4, 2, 2, 100
    config.data.batch = 16
    config.stage.optimizer.warmup_steps = 1
    config.stage.optimizer.learning_rate = 0.002
    config.stage.optimizer.schedule = "constant"
    if variant in CONVOLUTIONAL:
        shrink_tokenizer(config.stage.model)
    if variant == "dqvae-fixed":
        config.stage.model.routing = RoutingConfig(router="checkerboard", budget_weight=0.0)
    if variant.endswith("transformer"):
        config.stage.tokenizer = load_file("quickstart", CONVOLUTIONAL[f"{variant[:2]}vae"]).stage.model
        shrink_tokenizer(config.stage.tokenizer)
        for name, value in config.stage.model.following(config.stage.tokenizer).items():
            setattr(config.stage.model, name, value)
        config.stage.model.dim, config.stage.model.condition_dropout, config.stage.guidance = 32, 0.0, 1.0
    if variant == "rqtransformer":
        config.stage.accumulate = 2
        config.stage.model.body_layers = config.stage.model.head_layers = 1
    if variant == "dqtransformer":
        config.stage.model.position_layers = config.stage.model.content_layers = 1
    return config


def shrink_tokenizer(model) -> None:
    model.ch, model.ch_mult = 8, (1, 1, 1, 1)
    if hasattr(model, "decoder_ch"):
        model.decoder_ch, model.decoder_ch_mult, model.codebook_size = 8, (1, 1, 1), 32
    else:
        model.quantizer.codebook_size = (32,)
