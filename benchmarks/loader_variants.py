"""The contestants of benchmarks/loader.py: each a function (folder, workers) -> a function for a pass over them.

All make batches of 64 images of 224 x 224, random resized crop and horizontal flip, from the same shards. The peers get
the cheapest reading one can write for them: a list of offsets made beforehand, one read a sample, then torch's
DataLoader (with `workers` processes beyond one) and its or timm's own collate function.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

SIZE, BATCH = 224, 64
Pass = Callable[[], int]


def megabatch(folder: Path, workers: int) -> Pass:
    """Index, mmap, partial decode, torch's antialiased resize into the batch; `workers` threads."""
    from megabatch.data.loader import Loader

    loader = _loader(folder, workers)
    assert isinstance(loader, Loader)
    samples = loader.reader.samples
    return lambda: sum(len(batch.labels_N) for batch in loader.load(_requests(range(0, samples, BATCH), samples)))


def _loader(folder: Path, workers: int) -> Any:
    from megabatch.configs.transforms import HorizontalFlip, RandomResizedCrop
    from megabatch.data.augment.chain import decoding_chain
    from megabatch.data.dataset import read_dataset
    from megabatch.data.loader import Loader
    from megabatch.data.read import SplitReader

    dataset = read_dataset(folder)
    transform = decoding_chain([RandomResizedCrop(), HorizontalFlip()], SIZE, 10**8)
    reader = SplitReader(folder, dataset.split("train"))
    return Loader(reader, transform, SIZE, len(dataset.classes), seed=0, threads=workers)


def _requests(starts: Iterable[int], samples: int) -> Iterator[Any]:
    import numpy as np

    from megabatch.data.requests import Request

    for start in starts:
        ids = np.arange(start, min(start + BATCH, samples), dtype=np.int64)
        yield Request(0, 0, start, ids, np.zeros_like(ids), samples, last=False)


def full_decode(folder: Path, workers: int) -> Pass:
    """simplejpeg decodes every image whole; nothing else. The limit of whoever decodes all of it."""
    import simplejpeg

    payloads = _payloads(folder)

    def run() -> int:
        for payload in payloads:
            simplejpeg.decode_jpeg(payload, "RGB")
        return len(payloads)

    return run


def crop_decode(folder: Path, workers: int) -> Pass:
    """megabatch's decoder decodes the random crops; nothing else."""
    from megabatch.configs.transforms import RandomResizedCrop
    from megabatch.data.augment.geometry import crop_region
    from megabatch.data.decode import EncodedImage
    from megabatch.data.hashing import RandomStream, key

    payloads, settings = _payloads(folder), RandomResizedCrop()

    def run() -> int:
        for number, payload in enumerate(payloads):
            image = EncodedImage(payload, 10**8)
            image.region(crop_region(image.height, image.width, settings, RandomStream(key(number))))
        return len(payloads)

    return run


def _payloads(folder: Path) -> list[bytes]:
    dataset = TarImages(folder, lambda payload: payload)
    return [dataset[number][0] for number in range(len(dataset))]


class TarImages:
    """A map-style data set over the images of the train shards: (transform(payload), label)."""

    def __init__(self, folder: Path, transform: Callable[[bytes], Any]):
        from megabatch.data.tar_index import read_index

        self.transform = transform
        self.places: list[tuple[Path, int, int, int]] = []
        for tar in sorted(folder.glob("train-*.tar")):
            for sample in read_index(tar.with_suffix(".idx")):
                image = next(member for member in sample.members if member.extension != "cls")
                label = next(member for member in sample.members if member.extension == "cls")
                with tar.open("rb") as file:
                    file.seek(label.offset)
                    self.places.append((tar, image.offset, image.size, int(file.read(label.size))))
        self._files: dict[Path, Any] = {}

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """Return one image and its label."""
        tar, offset, size, label = self.places[number]
        if tar not in self._files:
            self._files[tar] = tar.open("rb")
        self._files[tar].seek(offset)
        return self.transform(self._files[tar].read(size)), label


def _data_loader(folder: Path, workers: int, transform: Callable[[bytes], Any], collate: Any = None) -> Pass:
    from torch.utils.data import DataLoader

    processes = workers if workers > 1 else 0
    loader: Any = DataLoader(
        TarImages(folder, transform),  # type: ignore[arg-type]
        BATCH,
        num_workers=processes,
        collate_fn=collate,
        persistent_workers=processes > 0,
        multiprocessing_context="fork" if processes else None,
    )
    return lambda: sum(len(labels) for _, labels in loader)


def torchvision_v2(folder: Path, workers: int) -> Pass:
    """torchvision.io.decode_jpeg and transforms v2 on uint8 tensors."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    transform = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])

    def image(payload: bytes) -> Any:
        encoded = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
        return transform(decode_jpeg(encoded, ImageReadMode.RGB))

    return _data_loader(folder, workers, image)


def timm(folder: Path, workers: int) -> Pass:
    """Pillow, timm's own training transform (bilinear, no colour jitter) and its fast_collate, uint8."""
    from PIL import Image
    from timm.data import create_transform
    from timm.data.loader import fast_collate

    transform = create_transform(
        SIZE, is_training=True, use_prefetcher=True, color_jitter=None, interpolation="bilinear"
    )
    return _data_loader(
        folder, workers, lambda payload: transform(Image.open(io.BytesIO(payload)).convert("RGB")), fast_collate
    )


def pillow(folder: Path, workers: int) -> Pass:
    """Pillow and torchvision's classic transforms, uint8."""
    from PIL import Image
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIZE)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.PILToTensor()])
    return _data_loader(folder, workers, lambda payload: transform(Image.open(io.BytesIO(payload)).convert("RGB")))


def webdataset_stock(folder: Path, workers: int) -> Pass:
    """Stock webdataset as its README shows it: decode("pil"), torchvision's transforms, float32 from ToTensor."""
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision import transforms

    crop = transforms.RandomResizedCrop(SIZE)
    transform = transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])
    tars = sorted(str(path) for path in folder.glob("train-*.tar"))
    samples = webdataset.WebDataset(tars, shardshuffle=False).decode("pil").to_tuple("jpg;jpeg;png", "cls")
    batched = samples.map_tuple(transform, lambda label: label).batched(BATCH)
    processes = workers if workers > 1 else 0
    loader: Any = DataLoader(batched, batch_size=None, num_workers=processes)
    return lambda: sum(len(labels) for _, labels in loader)


def dali(folder: Path, workers: int) -> Pass:
    """NVIDIA DALI on the CPU: its webdataset reader with our .idx files, image_random_crop, resize, flip; uint8."""
    from nvidia.dali import fn, pipeline_def, types

    tars = sorted(folder.glob("train-*.tar"))

    @pipeline_def(batch_size=BATCH, num_threads=workers, device_id=None)  # type: ignore[untyped-decorator]
    def pipe() -> Any:
        images, labels = fn.readers.webdataset(
            paths=[str(tar) for tar in tars],
            index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
            ext=["jpg;jpeg;png", "cls"],
            missing_component_behavior="error",
            name="reader",
        )
        images = fn.decoders.image_random_crop(
            images, device="cpu", output_type=types.RGB, random_aspect_ratio=[3 / 4, 4 / 3], random_area=[0.08, 1.0]
        )
        images = fn.resize(images, size=[SIZE, SIZE], interp_type=types.INTERP_TRIANGULAR, antialias=True)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    built = pipe()
    built.build()
    samples = int(built.epoch_size("reader"))

    def run() -> int:
        for _ in range(-(-samples // BATCH)):
            built.run()
        return -(-samples // BATCH) * BATCH

    return run


VARIANTS: dict[str, Callable[[Path, int], Pass]] = {
    "megabatch": megabatch,
    "torchvision v2": torchvision_v2,
    "timm": timm,
    "pillow": pillow,
    "webdataset": webdataset_stock,
    "dali": dali,
    "full decode": full_decode,
    "crop decode": crop_decode,
}
PEERS = ("torchvision v2", "timm", "pillow", "webdataset", "dali")
