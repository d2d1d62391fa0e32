"""Writes the files of this folder: `python make_files.py FOLDER`, where PyTorch and safetensors are installed."""

import argparse
import collections
import functools
import pathlib
import sys
import types
import warnings

import numpy as np
import safetensors.torch
import torch


def tensors():
    base = torch.arange(24.0).reshape(4, 6) / 8
    shared = torch.arange(6.0)
    return collections.OrderedDict(
        float64=torch.linspace(-1, 1, 5, dtype=torch.float64),
        float32=torch.randn(3, 4),
        float16=torch.randn(5).half(),
        bfloat16=torch.randn(2, 3).bfloat16(),
        int64=torch.tensor([-(2**40), 7]),
        int32=torch.tensor([1, -2], dtype=torch.int32),
        int16=torch.tensor([300, -2], dtype=torch.int16),
        int8=torch.tensor([-7], dtype=torch.int8),
        uint8=torch.tensor([255, 1], dtype=torch.uint8),
        bool=torch.tensor([True, False, True]),
        complex64=torch.tensor([1 + 2j, -3j]),
        uint16=torch.tensor([65535], dtype=torch.uint16),
        float8=torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn),
        scalar=torch.tensor(3.5),
        empty=torch.zeros(0, 3),
        transposed=base.T,
        strided=base[1:, ::2],
        row=base[2],
        expanded=torch.tensor([2.0]).expand(3, 2),
        parameter=torch.nn.Parameter(torch.ones(2, 2)),
        shared_a=shared,
        shared_b=shared.view(2, 3),
    )


def to_numpy(tensor):
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn) else tensor).numpy()


def define(module, *classes):
    """A module that exists only while this script runs."""
    sys.modules[module] = types.ModuleType(module)
    for cls in classes:
        cls.__module__, cls.__qualname__ = module, cls.__name__
        setattr(sys.modules[module], cls.__name__, cls)


class AttributeDict(dict):
    pass


class DictConfig:
    def __init__(self, content):
        self._content, self._parent = content, self


class ModelCheckpoint:
    pass


class AddOne(torch.nn.Module):
    def forward(self, x):
        return x + 1


def lightning(layer, optimizer):
    return {
        "epoch": 1,
        "global_step": np.int64(10),
        "state_dict": layer.state_dict(),
        "callbacks": {
            ModelCheckpoint: {"best_model_score": torch.tensor(0.25), "best_model_path": pathlib.PurePosixPath("a/b")}
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"lambda": functools.partial(pow, 2), "rates": np.arange(3.0)}],
        "hyper_parameters": AttributeDict(lr=1e-4, config=DictConfig({"dim": 4}), options=argparse.Namespace(seed=1)),
        "history": collections.defaultdict(list, a=[1]),
        "half": np.float16(0.5),
        "big_endian": np.arange(6, dtype=">i2").reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    }


def main(out):
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    state = tensors()
    np.savez_compressed(out / "tensors.npz", **{key: to_numpy(value) for key, value in state.items()})
    everything = dict(state_dict=state, epoch=3, name="é", path=b"\x00\xff", flags=(True, None, 2.5, 2**70))
    everything |= dict(size=torch.Size([2, 3]), dtype=torch.bfloat16, device=torch.device("cuda:1"), members={1, 2})
    torch.save(everything | dict(mixed=[1, [2, {}]], complex=1 - 2j), out / "zip.pt")
    old = {key: value for key, value in state.items() if key not in ("uint16", "float8")}
    legacy = functools.partial(torch.save, _use_new_zipfile_serialization=False)
    legacy(dict(state_dict=collections.OrderedDict(old), epoch=3), out / "legacy.pt")
    torch.serialization.set_crc32_options(False)
    torch.save(state["float32"], out / "no_checksums.pt")
    torch.serialization.set_crc32_options(True)
    storages = [state["shared_a"].untyped_storage(), torch.arange(3.0).storage()]
    torch.save(storages, out / "storages.pt")
    legacy(storages, out / "storages_legacy.pt")

    for module in ("pytorch_lightning", "pytorch_lightning.utilities", "pytorch_lightning.callbacks", "omegaconf"):
        define(module)
    define("pytorch_lightning.utilities.parsing", AttributeDict)
    define("pytorch_lightning.callbacks.model_checkpoint", ModelCheckpoint)
    define("omegaconf.dictconfig", DictConfig)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save(lightning(layer, optimizer), out / "lightning.ckpt")
    legacy(lightning(layer, optimizer), out / "lightning_legacy.ckpt")
    expected = dict(layer.state_dict(), exp_avg=optimizer.state_dict()["state"][0]["exp_avg"])
    np.savez_compressed(out / "lightning.npz", **{key: value.numpy() for key, value in expected.items()})

    torch.save({"w": torch.eye(3).to_sparse()}, out / "sparse.pt")
    torch.save({"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, out / "quantized.pt")
    torch.save({"w": torch.tensor([1j]).conj()}, out / "conjugated.pt")
    torch.jit.script(AddOne()).save(str(out / "torchscript.pt"))
    separate = {key: value.detach().clone().contiguous() for key, value in state.items()}
    safetensors.torch.save_file(separate, out / "tensors.safetensors", metadata={"format": "pt", "é": "ü"})


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
