"""Figures of public implementations of metrics, for tests: `python make_figures.py` writes figures.json beside itself.

Needs torch, torchvision, scipy, pillow and these packages, none of which the project depends on:
torch-fidelity 0.4.0, pytorch-fid 0.3.0, clean-fid 0.1.35, pytorch-msssim 1.0.0.
Inception's weights follow the rule of deterministic.py, as in inception_fid; images are det_image of the names below.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

import cleanfid.resize as cleanfid_resize  # noqa: E402
import pytorch_fid.inception as pytorch_fid  # noqa: E402
from deterministic import det_array, det_image  # noqa: E402
from pytorch_fid.fid_score import calculate_frechet_distance  # noqa: E402
from pytorch_msssim import ms_ssim  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x  # noqa: E402
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402

IMAGES = ("images", (2, 3, 48, 64))
LARGE = ("large", (2, 3, 320, 336))
SETS = {name: (f"set of {name}", (6, 3, 32, 32)) for name in ("real", "noise")}
SHARE = 0.3  # of the noise in the images that are compared with the real ones


def digest(x):
    """[L2 norm, inner product with a probe of the rule] in float64."""
    x = np.asarray(x, np.float64)
    return [float(np.linalg.norm(x)), float(np.sum(x * det_array("probe:figures", x.shape)))]


def as_bytes(name, shape):
    return np.round((det_image(name, shape) + 1) * 127.5).astype(np.uint8)


def weights():
    shapes = json.loads((HERE.parent / "inception_fid" / "meta.json").read_text())["param_shapes"]
    scaled = {k: det_array(k, s) * np.float32(2**0.5) if len(s) >= 2 else det_array(k, s) for k, s in shapes.items()}
    return {key: torch.from_numpy(np.asarray(array)) for key, array in scaled.items()}


def distributions():
    with np.load(HERE.parent / "distribution_metrics" / "data.npz") as data:
        real, made, logits = (torch.from_numpy(data[name]) for name in ("F1", "F2", "logits"))
    score = isc_features_to_metric(logits, splits=7, shuffle=True, rng_seed=2020)
    kernel = kid_features_to_metric(
        made, real, kid_subsets=5, kid_subset_size=50, rng_seed=2020, kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, verbose=False,
    )
    return {"inception_score": list(score.values()), "kernel_distance": list(kernel.values())}


def similarity():
    first, second = (torch.from_numpy(det_image(name, (2, 3, 176, 208))) / 2 + 0.5 for name in ("first", "second"))
    return ms_ssim(first, 0.7 * first + 0.3 * second, data_range=1.0, size_average=False).tolist()


def resizes():
    found = {}
    for name, shape in (IMAGES, LARGE):
        image = as_bytes(name, shape)
        floats = torch.from_numpy(image).float()
        tf1 = interpolate_bilinear_2d_like_tensorflow1x(floats, size=(299, 299), align_corners=False)
        half = torch.nn.functional.interpolate(floats, size=(299, 299), mode="bilinear", align_corners=False)
        clean = np.stack([cleanfid_resize.build_resizer("clean")(x) for x in image.transpose(0, 2, 3, 1)])
        found[name] = {
            "tf1": digest(tf1.permute(0, 2, 3, 1)),
            "half_pixel": digest(half.permute(0, 2, 3, 1)),
            "clean": digest(clean),
        }
    return found


def fidelity(state_dict, image):
    """Features, logits without bias, and sFID's: the outputs of the first branch of the seventh mixed block, of which
    ADM's evaluator keeps seven channels, channels last."""
    with tempfile.NamedTemporaryFile() as file:
        torch.save(state_dict, file.name)
        names = ["2048", "logits_unbiased", "logits"]
        net = FeatureExtractorInceptionV3("inception", names, feature_extractor_weights_path=file.name)
    kept = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    features, unbiased, logits = net(torch.from_numpy(image))
    spatial = kept[0].permute(0, 2, 3, 1)[..., :7].reshape(len(image), -1)
    assert spatial.shape[1] == 2023
    values = {"features": features, "logits_unbiased": unbiased, "logits": logits, "spatial": spatial}
    return {name: digest(value) for name, value in values.items()} | {"spatial_first": spatial[0, :16].tolist()}


def seen(state_dict, image):
    """Features and sFID's spatial features of torch-fidelity's network."""
    with tempfile.NamedTemporaryFile() as file:
        torch.save(state_dict, file.name)
        net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=file.name)
    kept = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: kept.append(output))
    features = net(torch.from_numpy(image))[0]
    return {"FID": features, "sFID": kept[0].permute(0, 2, 3, 1)[..., :7].reshape(len(image), -1)}


def distances(state_dict):
    """Frechet distances, from bytes on, between few images and the same with noise, as rFID and pFID are between images
    and what a tokenizer makes of them: torch-fidelity's of its features, and pytorch-fid's of the same."""
    real, noise = (det_image(*SETS[name]) for name in SETS)
    sets = [np.round((x + 1) * 127.5).astype(np.uint8) for x in (real, (1 - SHARE) * real + SHARE * noise)]
    looked, found = [seen(state_dict, x) for x in sets], {}
    for name in looked[0]:
        statistics = [fid_features_to_statistics(one[name]) for one in looked]
        values = [x for one in statistics for x in (one["mu"], one["sigma"])]
        found[name] = {
            "torch-fidelity": float(next(iter(fid_statistics_to_metric(*statistics, False).values()))),
            "pytorch-fid": float(calculate_frechet_distance(*values)),
        }
    return found


def pytorch(state_dict, image):
    """pytorch-fid's features: its own resize and scale, of images in [0, 1]."""
    pytorch_fid.load_state_dict_from_url = lambda *_, **__: state_dict
    net = pytorch_fid.InceptionV3().eval()
    return {"features": digest(net(torch.from_numpy(image).float() / 255)[0][:, :, 0, 0])}


def main():
    state_dict, image = weights(), as_bytes(*IMAGES)
    figures = {
        **distributions(),
        "ms_ssim": similarity(),
        "resizes": resizes(),
        "torch-fidelity": fidelity(state_dict, image),
        "pytorch-fid": pytorch(state_dict, image),
        "distances": distances(state_dict),
    }
    (HERE / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
