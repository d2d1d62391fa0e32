"""The jobs of DQ on the side of PyTorch: see official.py. Modules of the DQ checkout have the names of their files."""

import importlib
import time
from typing import Any

import numpy as np

from benchmarks.against import served
from benchmarks.against.served import Arrays

torch: Any = importlib.import_module("torch")  # no dependency of the package

LENGTHS = (2, 32, 128, 130, 384, 643)
"""Tokens before the one that is timed: the first half of a half-fine image is short. In between, times are drawn as
straight lines."""


def without_lpips() -> None:
    """LPIPS would read a file, even where its weight is 0."""
    losses: Any = importlib.import_module("modules.losses.vqperceptual_multidisc")
    losses.LPIPS = torch.nn.Identity


def instance(section: dict[str, Any]) -> Any:
    return importlib.import_module("utils.utils").instantiate_from_config(section)


def tokenizer(row: dict[str, Any]) -> Any:
    """A DQ-VAE with its discriminator, of the golden rule's weights."""
    without_lpips()
    model = instance(row["tokenizer"])
    served_by_rule(model)
    return model


def served_by_rule(model: Any) -> None:
    """Gives a module the weights of the golden rule; those of its loss by the discriminator's own keys."""
    for part, prefix in ((model, "loss."), (getattr(getattr(model, "loss", None), "discriminator", None), None)):
        if part is not None:
            shapes = {k: tuple(x.shape) for k, x in part.state_dict().items() if not prefix or not k.startswith(prefix)}
            found = {key: torch.from_numpy(x) for key, x in served.weights(shapes).items()}
            part.load_state_dict(found, strict=prefix is None)


class Reconstruction:
    """Images through a DQ-VAE and back."""

    def __init__(self, row: dict[str, Any], image: Any):
        self.model, self.image = tokenizer(row).eval(), image

    def warm(self) -> bool:
        self.run()
        return True

    def check(self, given: Arrays) -> Arrays:
        with torch.no_grad():
            quant, _, info, grain, _ = self.model.encode(self.image)
            out = self.model.decode(quant, grain)
        return {"reconstruction": out.permute(0, 2, 3, 1).numpy(), "codes": info[2].numpy(), "grain": grain.numpy()}

    def run(self) -> None:
        with torch.no_grad():
            self.model(self.image)


class TokenizerStep:
    """A step of a DQ-VAE as its module trains: a forward pass for each of the two optimizers. Without LPIPS."""

    def __init__(self, row: dict[str, Any], image: Any):
        self.model, self.image, self.logged = tokenizer(row).train(), image, {}
        self.model.current_epoch = self.model.global_step = 0
        self.model.steps_per_epoch = self.model.training_steps = 1000
        self.model.learning_rate = self.model.min_learning_rate = 4e-5
        self.model.log = lambda name, value, **options: None
        self.model.log_dict = lambda values, **options: self.logged.update(values)
        self.adams = self.model.configure_optimizers()[0]
        # each optimizer has its parameters to itself, as Lightning has it
        self.parts = [
            [p for group in adam.param_groups for p in group["params"] if p.requires_grad] for adam in self.adams
        ]

    def warm(self) -> bool:
        return False

    def check(self, given: Arrays) -> Arrays:
        functional = torch.nn.functional
        drawn, noise = functional.gumbel_softmax, torch.from_numpy(given["given_noise"])

        def with_noise(logits: Any, dim: int, hard: bool) -> Any:
            soft = (logits + noise).softmax(dim)
            chosen = functional.one_hot(soft.argmax(dim), soft.shape[dim]).to(soft)
            return chosen + soft - soft.detach()

        functional.gumbel_softmax = with_noise
        try:
            self.update(0)
            norm = torch.nn.utils.get_total_norm([p.grad for p in self.parts[0] if p.grad is not None])
            self.adams[0].step()
        finally:
            functional.gumbel_softmax = drawn
        names = {"reconstruction": "nll", "commitment": "quant", "adversarial": "g", "lambda": "d_weight"}
        found = {
            ours: self.logged[f"train_{theirs}" if ours == "lambda" else f"train_{theirs}_loss"]
            for ours, theirs in (names | {"budget": "budget"}).items()
        }
        found |= {"gradient_norm": norm}
        return {name: value.detach().numpy() for name, value in found.items()}

    def update(self, which: int) -> None:
        self.adams[which].zero_grad(set_to_none=True)
        for k, part in enumerate(self.parts):
            for p in part:
                p.requires_grad_(k == which)
        self.model.training_step({"image": self.image}, 0, which).backward()

    def run(self) -> None:
        for which, adam in enumerate(self.adams):
            self.update(which)
            adam.step()


class Given(torch.nn.Module):
    """A first stage that has encoded: its codes and grains are given."""

    def __init__(self, row: dict[str, Any]):
        super().__init__()
        codes, grain = served.dynamic_codes(row["batch"], row["grids"], row["codes"])
        self.codes, self.grain = (torch.from_numpy(x).long() for x in (codes, grain))

    def encode(self, x: Any) -> tuple[Any, ...]:
        return None, None, (None, None, self.codes), self.grain, None, None


def prior(row: dict[str, Any]) -> Any:
    """A DQ-Transformer of the golden rule's weights, over given codes."""
    section = row["prior"]
    params = section["params"] | {"first_stage_config": {"target": "torch.nn.Identity"}}
    model = instance({"target": section["target"], "params": params})
    served_by_rule(model.transformer)
    model.first_stage_model = Given(row)
    return model


class PriorStep:
    """A step of a DQ-Transformer on given codes; checked without dropout."""

    def __init__(self, row: dict[str, Any]):
        self.model, self.image = prior(row), torch.zeros(row["batch"], 3, 1, 1)
        self.model.steps_per_epoch, self.model.training_steps = 0, 1000
        self.model.learning_rate, self.model.min_learning_rate = 5e-4, 0.0
        self.adam = self.model.configure_optimizers()[0][0]

    def backward(self) -> dict[str, Any]:
        self.adam.zero_grad(set_to_none=True)
        losses = self.model(self.image, self.image)
        (losses["content_loss"] + losses["position_loss"]).backward()
        return losses

    def warm(self) -> bool:
        return False

    def check(self, given: Arrays) -> Arrays:
        self.model.transformer.eval()
        losses = self.backward()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self.model.transformer.parameters() if p.grad is not None]
        )
        found = {"content_loss": losses["content_loss"], "position_loss": losses["position_loss"]}
        return {name: x.detach().numpy() for name, x in (found | {"gradient_norm": norm}).items()}

    def run(self) -> None:
        self.model.transformer.train()
        self.backward()
        self.adam.step()


class Sampling:
    """Codes of half-fine images. There are no caches, so each token passes through all before it: tokens of a few
    lengths are timed, and the others' times lie on straight lines between. Checked on the codes of the other side, each
    of which must be the likeliest behind those before it.
    """

    def __init__(self, row: dict[str, Any]):
        self.row, self.model = row, prior(row)
        self.model.transformer.eval()
        self.filters = importlib.import_module("models.stage2.utils")

    def warm(self) -> bool:
        self.token(2)
        return False

    def check(self, given: Arrays) -> Arrays:
        self.model.first_stage_model.codes = torch.from_numpy(given["given_codes"]).long()
        image = torch.zeros(self.row["batch"], 3, 1, 1)
        found: list[Any] = []
        handle = self.model.transformer.content_head.register_forward_hook(lambda module, x, y: found.append(y))
        with torch.no_grad():
            self.model(image, image)
        handle.remove()
        return {"greedy": found[0][..., : self.row["codes"]].argmax(-1).numpy()[given["given_where"]]}

    def token(self, length: int) -> None:
        """Draws the position and the content of the token behind `length` others: coarse ones first, then fine."""
        model, batch = self.model, self.row["batch"]
        coarse = min(length, LENGTHS[2] + 1)
        ids = {
            name: torch.zeros(batch, count, dtype=torch.long)
            for name, count in (("coarse", coarse), ("fine", length - coarse))
        }
        more = {"coarse_content": ids["coarse"], "coarse_position": ids["coarse"], "coarse_seg": ids["coarse"]}
        grain = "coarse"
        if length > coarse:
            grain = "fine"
            more |= {"fine_content": ids["fine"], "fine_position": ids["fine"], "fine_seg": ids["fine"]}
        hidden, logits = getattr(model.transformer, f"sample_{grain}_position")(**more)
        drawn = self.drawn(logits)
        more[f"{grain}_position"] = torch.cat([more[f"{grain}_position"], drawn], 1)
        _, logits = getattr(model.transformer, f"sample_{grain}_content")(**more, position_hidden=hidden)
        self.drawn(logits)

    def drawn(self, logits: Any) -> Any:
        logits = self.filters.top_k_logits(logits[:, -1], self.row["top_k"])
        probabilities = self.filters.top_p_logits(logits.softmax(-1), self.row["top_p"])
        return torch.multinomial(probabilities, 1).clamp(max=self.row["codes"] // 8)

    def run(self) -> float:
        seconds = []
        with torch.no_grad():
            for length in LENGTHS:
                start = time.perf_counter()
                self.token(length)
                seconds.append(time.perf_counter() - start)
        return float(np.interp(np.arange(1, LENGTHS[-1] + 1), LENGTHS, seconds).sum())
