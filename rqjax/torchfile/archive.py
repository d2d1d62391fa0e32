"""The zip archive that torch.save writes: where each record lies in the file. Nothing is extracted."""

import itertools
import mmap
import struct
import zipfile
import zlib
from typing import IO

from rqjax.errors import DAMAGED, InputError

LOCAL_HEADER = struct.Struct("<4s22xHH")
CHUNK = 2**24


class Archive:
    """The records of a mapped zip file, by their name without the archive's own folder, each as its (start, stop)."""

    def __init__(self, file: IO[bytes], mapped: mmap.mmap):
        self.mapped = mapped
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError) as error:
            raise InputError(f"{DAMAGED} ({' '.join(str(error)[:200].split())})") from None
        folder = self._folder(entries)
        self.entries: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            name = entry.filename.removeprefix(folder)
            if name in self.entries or not entry.filename.startswith(folder):
                raise InputError(f"its record {entry.filename[:60]!r} is there twice or out of place: {DAMAGED}")
            self.entries[name] = entry
        self.spans = {name: self._span(entry) for name, entry in self.entries.items()}
        self._refuse_overlaps()

    @staticmethod
    def _folder(entries: list[zipfile.ZipInfo]) -> str:
        """The folder of the archive, as `model/` in `model/data.pkl`."""
        folders = [entry.filename.removesuffix("data.pkl") for entry in entries if entry.filename.endswith("/data.pkl")]
        folders = [folder for folder in folders if folder.count("/") == 1]
        if len(folders) != 1:
            raise InputError("this zip file has no data.pkl, expected a file that torch.save wrote")
        if f"{folders[0]}constants.pkl" in {entry.filename for entry in entries}:
            raise InputError(
                "this is a TorchScript program, expected a checkpoint: torch.save(module.state_dict(), file)"
            )
        return folders[0]

    def _span(self, entry: zipfile.ZipInfo) -> tuple[int, int]:
        offset, header = entry.header_offset, LOCAL_HEADER.size
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise InputError(
                f"its record {entry.filename[:60]!r} is compressed or encrypted, expected a file as torch.save wrote it"
            )
        if offset < 0 or offset + header > len(self.mapped):
            raise InputError(DAMAGED)
        signature, name, extra = LOCAL_HEADER.unpack(self.mapped[offset : offset + header])
        start = offset + header + name + extra
        stop = start + entry.file_size
        if signature != b"PK\3\4" or stop > len(self.mapped) or entry.compress_size != entry.file_size:
            raise InputError(
                f"its record {entry.filename[:60]!r} has no valid header or reaches past the end: {DAMAGED}"
            )
        return start, stop

    def _refuse_overlaps(self) -> None:
        """Records that share bytes would let a small file claim any amount of data."""
        extents = sorted((entry.header_offset, self.spans[name][1]) for name, entry in self.entries.items())
        if any(stop > start for (_, stop), (start, _) in itertools.pairwise(extents)):
            raise InputError(f"its records overlap: {DAMAGED}")

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small record, checked."""
        start, stop = self.span(name)
        if stop - start > limit:
            raise InputError(f"its record {name!r} has {stop - start} bytes, expected at most {limit}")
        self.check(name)
        return self.mapped[start:stop]

    def span(self, name: str) -> tuple[int, int]:
        """Where the record lies; InputError if there is none of that name."""
        if name not in self.spans:
            raise InputError(f"its record {name[:60]!r} is missing: {DAMAGED}")
        return self.spans[name]

    def check(self, name: str) -> None:
        """Raises InputError if the content does not have the checksum recorded for it (0: torch.save recorded none)."""
        start, stop = self.span(name)
        checksum = 0
        with memoryview(self.mapped) as view:
            for position in range(start, stop, CHUNK):
                checksum = zlib.crc32(view[position : min(position + CHUNK, stop)], checksum)
        if self.entries[name].CRC not in (0, checksum):
            raise InputError(f"the checksum of {name!r} is wrong: {DAMAGED}")
