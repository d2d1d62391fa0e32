"""Figures of a public CLIP, for tests: `python make_figures.py` writes figures.json beside itself.

Needs torch, transformers and pillow, of which the project depends on the last alone. A small CLIP with the layers of
ViT-B/32 gets weights by the rule of deterministic.py, from its own names; the names and shapes of ViT-B/32 are listed.
"""

import json
import pathlib
import sys

import numpy as np
import torch
import transformers
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from deterministic import det_array, det_image  # noqa: E402

IMAGES = ("clip", (3, 3, 224, 224))
SMALL = {"dim": 32, "image_dim": 128, "image_layers": 3, "text_dim": 64, "text_layers": 2}
IDS = [[49406, 320, 736, 1929, 49407, 49407], [49406, 49407, 0, 0, 0, 0], [49406, 5, 49405, 77, 8, 49407]]


def config(dim=512, image_dim=768, image_layers=12, text_dim=512, text_layers=12):
    vision = {"hidden_size": image_dim, "intermediate_size": 4 * image_dim, "num_hidden_layers": image_layers}
    text = {"hidden_size": text_dim, "intermediate_size": 4 * text_dim, "num_hidden_layers": text_layers}
    return CLIPConfig(
        text_config=CLIPTextConfig(**text, num_attention_heads=text_dim // 64, projection_dim=dim).to_dict(),
        vision_config=CLIPVisionConfig(**vision, num_attention_heads=image_dim // 64, projection_dim=dim).to_dict(),
        projection_dim=dim,
    )


def main():
    with torch.device("meta"):
        full = CLIPModel(config())
    model = CLIPModel(config(**SMALL)).eval()
    weights = {k: det_array(k, tuple(v.shape)) for k, v in model.state_dict().items() if k != "logit_scale"}
    model.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in weights.items()}, strict=False)
    with torch.no_grad():
        found = model(input_ids=torch.tensor(IDS), pixel_values=torch.from_numpy(det_image(*IMAGES)))
        # the output's vectors are of unit length; those before are compared too
        image = model.visual_projection(model.vision_model(torch.from_numpy(det_image(*IMAGES))).pooler_output)
        text = model.text_projection(model.text_model(torch.tensor(IDS)).pooler_output)
    figures = {
        "transformers": transformers.__version__,
        "small": SMALL,
        "small_shapes": {k: list(v.shape) for k, v in model.state_dict().items()},
        "published_shapes": {k: list(v.shape) for k, v in full.state_dict().items()},
        "ids": IDS,
        "image": image.tolist(),
        "text": text.tolist(),
        "cosines": torch.sum(found.image_embeds * found.text_embeds, dim=-1).tolist(),
    }
    (HERE / "figures.json").write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
