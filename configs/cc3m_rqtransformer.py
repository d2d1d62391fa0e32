"""Text to image on Conceptual Captions, 654M parameters (Lee et al. 2022, Table 3; cc3m-rqtransformer-8x8x4-650M).

FID 12.33 and CLIP score 0.26 on the validation captions. Captions are 32 tokens of a vocabulary of 16384 (byte-pair
encoding, dropout 0.1), the tokenizer is ImageNet's RQ-VAE unchanged. Loss: 0.9 image + 0.1 text.
Batch 2048, 100 epochs of the 3,318,333 captions of the list (fewer images can be downloaded: set --config.steps by
what you have). Sampling of the YAML: top_k 16384, top_p 0.7. Hardware of the paper: 4 A100, microbatches of 32.
The release crops a square near the centre and scales it to a random side; here: the shorter side to 256, random crop.
data.path is the list, train_list.txt and val_list.txt in a folder with the images (path<TAB>caption), or a set that
launch/prepare.py made of it; data.vocabulary is a folder with the official bpe-16k-vocab.json and bpe-16k-merges.txt,
or with a vocabulary of one's own (launch/vocabulary.py).
"""

from rqjax.data import DataConfig
from rqjax.errors import InputError
from rqjax.rq.convolutions import RQVAEConfig
from rqjax.rq.transformer import RQTransformerConfig
from rqjax.run.config import Config
from rqjax.stages.predict import PredictConfig

EPOCH = 1_621  # steps: 3,318,333 captions in batches of 2048


def get_config(variant: str = "") -> Config:
    if variant:
        raise InputError(f"variant {variant!r}: this file has none")
    model = RQTransformerConfig(
        dim=1280,
        body_layers=26,
        head_layers=4,
        text_vocab=16384,
        text_length=32,
        image_loss_weight=0.9,
        text_loss_weight=0.1,
    )
    return Config(
        stage=PredictConfig(model=model, tokenizer=RQVAEConfig(), accumulate=16, top_p=0.7),
        data=DataConfig(
            name="captions",
            text_length=32,
            text_dropout=0.1,
            resize=256,
            size=256,
            batch=2048,
            crop="random",
            threads=16,
        ),
        steps=100 * EPOCH,
    )
