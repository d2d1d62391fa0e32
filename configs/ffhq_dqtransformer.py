"""DQ-Transformer on FFHQ at 256x256: the release's unconditional p6c18 on the tokenizer of configs/ffhq_dqvae.py.

308,884,480 parameters. Batch 240 and 100 epochs are those of the release's ImageNet file: 25,000 steps. A digest of the
paper quotes an FID of 4.91 on FFHQ; whether this recipe gives it was not verified.
    rqjax train --config configs/ffhq_dqtransformer.py --workdir runs/ffhq_dqtransformer \
        --config.data.path=FOLDER --config.stage.tokenizer_path=runs/ffhq_dqvae
"""

from rqjax.errors import InputError
from rqjax.official import recipes_dq as dq
from rqjax.official.recipes_rq import FFHQ
from rqjax.official.recipes_shared import folder, steps
from rqjax.run.config import Config


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    tokenizer = dq.dqvae(dq.routing((0.5,), 0.0, threshold=dq.MEDIAN_ENTROPY_FFHQ))
    return Config(
        stage=dq.predict(dq.dqtransformer(0), tokenizer),
        data=folder("", dq.BATCH, crop="random_resized"),
        steps=steps(FFHQ, dq.BATCH, 100),
        save_every=steps(FFHQ, dq.BATCH, 1),
    )
