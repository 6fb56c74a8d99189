"""Every kind of damage to a shard: what megabatch and stock webdataset notice, and how many samples are lost unnoticed.

    python benchmarks/damage.py

Three shards of ten photographs are imported, the second is harmed, and all samples are read: by webdataset with its
default handler (which raises what it notices), and by megabatch at three moments: when the shards are indexed, by `data
verify` against what an earlier index recorded, and in training with that earlier index. Every reader decodes the image
and needs image and label, so an image that cannot be decoded counts as noticed for all. "silent: n" means that n of the
30 samples are missing or have other pixels or another label, without an error.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from megabatch.data.augment.chain import decoding_chain
from megabatch.data.dataset import Dataset, read_dataset
from megabatch.data.decode import decode_image
from megabatch.data.errors import DataError
from megabatch.data.indexing import index_shards, verify
from megabatch.data.loader import Loader
from megabatch.data.read import SplitReader
from megabatch.data.requests import evaluation_requests
from support.damage import CLASSES, KINDS, TILE, photo_dataset, target

Sample = tuple[bytes, int]


def webdataset_samples(folder: Path) -> list[Sample]:
    """Stock webdataset: default handler, image and label of each sample; decoded as megabatch does, to compare."""
    import webdataset

    shards = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = webdataset.WebDataset(shards, shardshuffle=False).to_tuple("jpg", "cls")
    return [(decode_image(image, 10**6).tobytes(), int(label)) for image, label in samples]


def trained_on(dataset: Dataset) -> list[Sample]:
    """Load every sample once, through the loader."""
    reader = SplitReader(dataset.folder, dataset.split("train"))
    loader = Loader(reader, decoding_chain([], TILE, 10**6), TILE, CLASSES, seed=0, threads=1)
    batches = loader.load(evaluation_requests(reader.samples, 4, 0, 1))
    pairs = ((i, n) for batch in batches for i, n in zip(batch.images_NHWC, batch.labels_N, strict=True))
    return [(image.numpy().tobytes(), int(label)) for image, label in pairs]


def outcome(read: Callable[[], list[Sample]], whole: list[Sample]) -> str:
    """Return "noticed" for an error, else how many samples are not as they were."""
    try:
        found = read()
    except Exception:  # whatever the reader under test raises is a notice
        return "noticed"
    lost = len(whole) - len(set(found) & set(whole))
    return f"silent: {lost}" if lost else "nothing lost"


def verified(dataset: Dataset) -> list[Sample]:
    """Raise DataError for the first problem that verify finds."""
    problems = verify(dataset, lambda done, total: None)
    if problems:
        raise DataError(problems[0])
    return trained_on(dataset)


def main() -> None:
    """Print the table."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as work:
        folder = photo_dataset(Path(work)).folder
        whole = trained_on(read_dataset(folder))
        print(f"{'kind':36} {'indexing':14} {'data verify':14} {'training':14} webdataset")
        noticed = [0, 0, 0, 0]
        for kind, harm in KINDS.items():
            harmed = Path(shutil.copytree(folder, Path(work) / "harmed"))
            shard = harmed / "train-000001.tar"
            shard.write_bytes(harm(target(shard)))
            outcomes = _outcomes(harmed, whole)
            noticed = [count + (result == "noticed") for count, result in zip(noticed, outcomes, strict=True)]
            print(f"{kind:36} {outcomes[0]:14} {outcomes[1]:14} {outcomes[2]:14} {outcomes[3]}")
            shutil.rmtree(harmed)
        print(f"{f'noticed of {len(KINDS)}':36} {noticed[0]:<14} {noticed[1]:<14} {noticed[2]:<14} {noticed[3]}")


def _outcomes(harmed: Path, whole: list[Sample]) -> list[str]:
    earlier = read_dataset(harmed)
    results = [
        outcome(lambda: verified(earlier), whole),
        outcome(lambda: trained_on(earlier), whole),
        outcome(lambda: webdataset_samples(harmed), whole),
    ]
    return [outcome(lambda: trained_on(index_shards(harmed, None, lambda done, total: None)), whole), *results]


if __name__ == "__main__":
    main()
