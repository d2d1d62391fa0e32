"""The side of PyTorch in benchmarks/against_pytorch.py: the official code, imported from a checkout of it.

    PYTHON -m benchmarks.against.official SECONDS_SINCE_1970 RQ_CHECKOUT DQ_CHECKOUT

PYTHON has torch and all else that the official models import, but for packages of ABSENT, which they do not use here.
Nothing of rqjax is imported. What the official trainers do around a model is said again here, with their own losses.
"""

import dataclasses
import functools
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.against import official_dq as dq
from benchmarks.against import served
from benchmarks.against.served import Arrays, Job

torch: Any = importlib.import_module("torch")  # no dependency of the package

ABSENT = ("albumentations", "lmdb", "pytorch_lightning", "requests", "tensorboard", "timm", "torchvision", "tqdm")
"""Packages whose names official modules import; where one is not installed, an empty one stands in for it."""


class Hollow(types.ModuleType):
    """A module in which every name is there, with nothing behind it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("Lightning"):
            return torch.nn.Module
        if name[0].isupper():
            return type(name, (), {"__init__": lambda self, *parts, **options: None})
        return Hollow(f"{self.__name__}.{name}")


class Hollows(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the packages of ABSENT, after all other finders."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name.split(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Hollow:
        return Hollow(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def rqvae(name: str) -> Any:
    """A module of the RQ checkout. Its dataclasses have dataclasses as defaults, which Python refuses since 3.11
    unless they can be hashed.
    """
    plain = dataclasses.dataclass
    dataclasses.dataclass = functools.partial(plain, unsafe_hash=True)  # pyrefly: ignore
    try:
        return importlib.import_module(f"rqvae.{name}")
    finally:
        dataclasses.dataclass = plain


def by_rule(model: Any, shared: bool = False) -> Any:
    """The model, with the weights of the golden rule."""
    found = served.weights({key: tuple(x.shape) for key, x in model.state_dict().items()}, shared)
    model.load_state_dict({key: torch.from_numpy(x) for key, x in found.items()})
    return model


def rq_model(arch: dict[str, Any]) -> Any:
    """The model that an `arch` section of the RQ checkout describes."""
    models, config = rqvae("models"), importlib.import_module("omegaconf").OmegaConf.create(arch)
    if arch["type"] == "rq-transformer":
        config = rqvae("models.rqtransformer.configs").RQTransformerConfig.create(config)
    return by_rule(models.create_model(config)[0], arch.get("hparams", {}).get("shared_codebook", False))


def image_of(row: dict[str, Any], side: int) -> Any:
    image = served.pixels(row["batch"], side).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(image)).float() / 127.5 - 1


def total_norm(parameters: Any) -> Any:
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def figures(**values: Any) -> Arrays:
    return {name: value.detach().numpy() for name, value in values.items()}


class Reconstruction:
    """Images through an RQ-VAE and back."""

    def __init__(self, row: dict[str, Any]):
        self.model = rq_model(row["tokenizer"]).eval()
        self.image = image_of(row, row["tokenizer"]["ddconfig"]["resolution"])

    def warm(self) -> bool:
        self.run()
        return True

    def check(self, given: Arrays) -> Arrays:
        with torch.no_grad():
            out, _, codes = self.model(self.image)
        return figures(reconstruction=out.permute(0, 2, 3, 1), codes=codes)

    def run(self) -> None:
        with torch.no_grad():
            self.model(self.image)


class TokenizerStep:
    """A step of an RQ-VAE with its discriminator, without LPIPS."""

    def __init__(self, row: dict[str, Any]):
        self.model = rq_model(row["tokenizer"]).train()
        self.image = image_of(row, row["tokenizer"]["ddconfig"]["resolution"])
        self.options = options = row["discriminator"]
        layers, channels = options["disc_num_layers"], options["disc_ndf"]
        self.critic = rqvae("losses.vqgan").NLayerDiscriminator(input_nc=3, ndf=channels, n_layers=layers)
        by_rule(self.critic).train()
        self.losses = rqvae("losses.vqgan.gan_loss")
        self.weight = rqvae("trainers.trainer_rqvae").calculate_adaptive_weight
        self.adams = [torch.optim.Adam(part.parameters(), 4e-5, (0.5, 0.9)) for part in (self.model, self.critic)]

    def warm(self) -> bool:
        return False

    def step(self) -> Arrays:
        for adam in self.adams:
            adam.zero_grad(set_to_none=True)
        recon, *rest = self.model(self.image)
        terms = self.model.compute_loss(recon, *rest, xs=self.image)
        adversarial = self.losses.vanilla_g_loss(self.critic(recon)[0])
        factor = self.weight(terms["loss_recon"], adversarial, self.model.get_last_layer())
        (terms["loss_total"] + factor * self.options["disc_weight"] * adversarial).backward()
        norm = total_norm(self.model.parameters())
        self.adams[0].step()
        self.adams[1].zero_grad(set_to_none=True)
        fake, real = self.critic(recon.detach(), self.image)
        loss = self.options["disc_loss_weight"] * self.losses.hinge_d_loss(real, fake)
        loss.backward()
        self.adams[1].step()
        return figures(
            **{"reconstruction": terms["loss_recon"], "commitment": terms["loss_latent"], "adversarial": adversarial},
            **{"lambda": factor, "discriminator": loss, "gradient_norm": norm},
        )

    def check(self, given: Arrays) -> Arrays:
        return self.step()

    def run(self) -> None:
        self.step()


class PriorStep:
    """A step of an RQ-Transformer on given codes; checked without dropout."""

    def __init__(self, row: dict[str, Any]):
        self.tokenizer, self.model = rq_model(row["tokenizer"]).eval(), rq_model(row["prior"])
        shape, sizes = row["prior"]["block_size"], self.model.vocab_size
        self.codes = torch.from_numpy(served.codes((row["batch"], *shape), min(sizes))).long()
        self.adam = torch.optim.AdamW(self.model.parameters(), 5e-4, (0.9, 0.95), weight_decay=1e-4)

    def warm(self) -> bool:
        return False

    def backward(self) -> Any:
        self.adam.zero_grad(set_to_none=True)
        loss = self.model.compute_loss(self.model(self.codes, model_aux=self.tokenizer), self.codes)
        loss.backward()
        return loss

    def check(self, given: Arrays) -> Arrays:
        self.model.eval()
        loss = self.backward()
        return figures(loss=loss, gradient_norm=total_norm(self.model.parameters()))

    def run(self) -> None:
        self.model.train()
        self.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.adam.step()


class Sampling:
    """Codes drawn from an RQ-Transformer, with its caches; checked by the greedy ones, or if codes are given by those
    that are the likeliest behind the ones before.
    """

    def __init__(self, row: dict[str, Any]):
        self.tokenizer, self.model = rq_model(row["tokenizer"]).eval(), rq_model(row["prior"]).eval()
        self.none = torch.zeros((row["batch"], *row["prior"]["block_size"]), dtype=torch.long)
        self.filters = {name: row[name] for name in ("top_k", "top_p")}

    def warm(self) -> bool:
        self.run()
        return True

    def check(self, given: Arrays) -> Arrays:
        if (codes := given.get("given_codes")) is not None:
            with torch.no_grad():
                logits = self.model(torch.from_numpy(codes).long(), model_aux=self.tokenizer)
            return figures(greedy=logits.argmax(-1).reshape(codes.shape))
        return figures(greedy=self.model.sample(self.none, self.tokenizer, top_k=1, top_p=1.0))

    def run(self) -> None:
        self.model.sample(self.none, self.tokenizer, **self.filters)


JOBS: dict[str, Callable[[dict[str, Any]], Job]] = {
    "reconstruct": Reconstruction,
    "train tokenizer": TokenizerStep,
    "train prior": PriorStep,
    "sample": Sampling,
}
OF_DQ: dict[str, Callable[[dict[str, Any]], Job]] = {
    "reconstruct": lambda row: dq.Reconstruction(row, image_of(row, 256)),
    "train tokenizer": lambda row: dq.TokenizerStep(row, image_of(row, 256)),
    "train dq prior": dq.PriorStep,
    "sample dq": dq.Sampling,
}


def make(row: dict[str, Any]) -> Job:
    jobs, checkout = (OF_DQ, sys.argv[3]) if row.get("grids") else (JOBS, sys.argv[2])
    sys.path.insert(0, checkout)
    return jobs[row["job"]](row)


if __name__ == "__main__":
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    sys.meta_path.append(Hollows())
    served.serve(float(sys.argv[1]), make)
