"""The zip archive that torch.save writes, whose records are looked at where they lie: nothing is extracted."""

import io
import itertools
import mmap
import struct
import sys
import zipfile
import zlib

import numpy as np

from rqjax.errors import DAMAGED, InputError
from rqjax.torchfile.pickles import Window, read_pickle
from rqjax.torchfile.storages import Storage, Storages
from rqjax.torchfile.tensors import CONSTRUCTORS

LOCAL_HEADER = struct.Struct("<4s22xHH")
DIRECTORY_BYTES = 2**21
"""The longest list of records, enough for 20,000 tensors."""


def read_archive(mapped: mmap.mmap, verify: bool) -> object:
    """The object that the file holds, its tensors as views on the file; with `verify` its data has its checksums."""
    records = Records(mapped)
    order = records.content("byteorder").tobytes() if "byteorder" in records.spans else b"little"
    if order not in (b"little", b"big"):
        raise InputError(f"its byte order is {order[:20]!r}, expected little or big: {DAMAGED}")

    def load(storage: Storage) -> np.ndarray:
        values = storage.elements(records.content(f"data/{storage.key}", verify))
        if order.decode() == sys.byteorder:
            return values
        if storage.kind == "UntypedStorage":
            raise InputError("it holds untyped storages in the other byte order: save it with PyTorch on this machine")
        return values.byteswap()

    records.content("data.pkl")
    start, stop, _ = records.spans["data.pkl"]
    return read_pickle(Window(mapped, start, stop), CONSTRUCTORS, Storages(load))


class Records:
    """The records of a mapped zip file by their name without the archive's own folder: (start, stop, checksum)."""

    def __init__(self, mapped: mmap.mmap):
        self.raw = np.frombuffer(mapped, np.uint8)
        tail = mapped[-DIRECTORY_BYTES:]
        with zipfile.ZipFile(io.BytesIO(tail)) as archive:
            entries = archive.infolist()
        folder = _folder([entry.filename for entry in entries])
        self.spans: dict[str, tuple[int, int, int]] = {}
        extents = []
        for entry in entries:
            name, header = entry.filename.removeprefix(folder), entry.header_offset + len(mapped) - len(tail)
            if name in self.spans or name == entry.filename:
                raise InputError(f"its record {name[:60]!r} is there twice or out of place: {DAMAGED}")
            start = header + LOCAL_HEADER.size + _lengths(mapped, header, entry)
            self.spans[name] = start, start + entry.file_size, entry.CRC
            extents.append((header, start + entry.file_size))
        ends = [*sorted(extents), (len(mapped), 0)]
        if any(stop > start for (_, stop), (start, _) in itertools.pairwise(ends)):
            raise InputError(f"its records overlap or reach past the end: {DAMAGED}")

    def content(self, name: str, verify: bool = True) -> np.ndarray:
        """The bytes of a record; with `verify` they have its checksum, if it is not 0: torch.save may record none."""
        if name not in self.spans:
            raise InputError(f"its record {name[:60]!r} is missing: {DAMAGED}")
        start, stop, checksum = self.spans[name]
        if verify and checksum not in (0, zlib.crc32(self.raw[start:stop].data)):
            raise InputError(f"the checksum of {name!r} is wrong: {DAMAGED}")
        return self.raw[start:stop]


def _folder(names: list[str]) -> str:
    """The folder of the archive, as `model/` of `model/data.pkl`."""
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(folders) != 1:
        raise InputError("this zip file has no data.pkl, expected a file that torch.save wrote")
    if f"{folders[0]}constants.pkl" in names:
        raise InputError("this is a TorchScript program, expected a checkpoint: torch.save(module.state_dict(), file)")
    return folders[0]


def _lengths(mapped: mmap.mmap, header: int, entry: zipfile.ZipInfo) -> int:
    """How many bytes the name and the extra field take, behind which a record's content begins."""
    name = entry.filename[:60]
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise InputError(f"its record {name!r} is compressed or encrypted, expected a file as torch.save wrote it")
    signature, *lengths = LOCAL_HEADER.unpack_from(mapped, max(header, 0))
    if header < 0 or signature != b"PK\3\4" or entry.compress_size != entry.file_size:
        raise InputError(f"its record {name!r} has no valid header: {DAMAGED}")
    return sum(lengths)
