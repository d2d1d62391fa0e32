"""Runs of seconds, for tests of everything around the models: variants of configs/quickstart.py, made smaller."""

from rqjax.config import Config, load_file


def get_config(variant: str = "rqvae") -> Config:
    config = load_file("quickstart", variant)
    config.steps, config.log_every, config.save_every, config.preview_every = 4, 2, 2, 100
    config.data.batch = 16
    config.stage.optimizer.warmup_steps = 1
    config.stage.optimizer.learning_rate = 0.002
    config.stage.optimizer.schedule = "constant"
    config.stage.optimizer.min_learning_rate = 0.0
    tokenizers = (
        [config.stage.model] if variant == "rqvae" else [config.stage.tokenizer] if variant != "classifier" else []
    )
    for tokenizer in tokenizers:
        tokenizer.ch, tokenizer.ch_mult, tokenizer.codes = 8, (1, 1, 1, 1), (32,)
    if variant == "rqtransformer":
        model = config.stage.model
        model.vocab, model.dim, model.body_layers, model.head_layers = (32,), 32, 1, 1
        config.stage.accumulate = 2
    return config
