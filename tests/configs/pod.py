"""Ten steps of every stage with all that a mesh could change switched on: the runs of tests/run/test_pod.py."""

from rqjax.run.config import Config
from tests.configs.tiny import get_config as tiny


def get_config(variant: str = "rqvae") -> Config:
    config = tiny(variant)
    config.steps, config.log_every, config.save_every, config.preview_every = 10, 1, 10, 100
    config.data.resize = config.data.size = 16
    stage = config.stage
    stage.optimizer.learning_rate = 1e-4 if variant.endswith("vae") else 1e-3
    stage.ema_decay = 0.9
    three_levels(stage.model if variant.endswith("vae") else stage.tokenizer)
    if variant.endswith("vae"):
        stage.disc_weight = stage.disc_loss_weight = 0.75
        stage.disc_ndf, stage.discriminator_optimizer = 8, stage.optimizer
    if variant == "dqvae":
        stage.codebook_updates_per_step, stage.disc_weight_max = 2, 0.75
    if variant.startswith("dq"):
        learned_routes(stage.model if variant == "dqvae" else stage.tokenizer)
    if variant.endswith("transformer"):
        stage.model.dropout = stage.model.attention_dropout = 0.1
    if variant == "dqtransformer":
        stage.model.pack, stage.model.pack_groups = True, 8  # one for each shard of the widest mesh
    return config


def three_levels(model) -> None:
    """16x16 pixels, as before on 4x4 positions; 24 channels, so that 8 devices split them and groups have 3 each."""
    model.resolution, model.ch, model.ch_mult = 16, 24, (1, 1, 1)
    if hasattr(model, "decoder_ch"):
        model.decoder_ch, model.decoder_ch_mult = 24, (1, 1)


def learned_routes(model) -> None:
    """Grains by sampled gates, held to their share of the batch by the budget."""
    routing = model.routing
    routing.router, routing.exact_ratio, routing.budget_weight = "feature", False, 10.0
