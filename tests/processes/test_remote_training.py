"""Training on shards behind a web server: the bits of training on the folder, and one download for all ranks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.runs import Workplace, losses, trained_samples

pytestmark = pytest.mark.processes


class Counting(SimpleHTTPRequestHandler):
    """Serves files and counts what is asked for."""

    asked: Counter[str] = Counter()

    def do_GET(self) -> None:
        self.asked[self.path] += 1
        super().do_GET()

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def address(workplace: Workplace) -> Iterator[str]:
    handler = partial(Counting, directory=str(workplace.folder / "data"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_two_ranks_train_over_http_as_on_the_folder_and_load_each_shard_once(
    workplace: Workplace, address: str, tmp_path: Path
) -> None:
    local = workplace.train("from-folder", 2, "data.validation_split=validation")
    cache = f"cluster.cache={{folder: {tmp_path / 'cache'}}}"
    remote = workplace.train("over-http", 2, "data.validation_split=validation", f"data.path={address}", cache)
    assert losses(remote) == losses(local)
    assert trained_samples(remote) == trained_samples(local)
    shards = {path: count for path, count in Counting.asked.items() if path.endswith(".tar")}
    assert len(shards) == 7
    assert set(shards.values()) == {1}


def test_a_server_that_is_gone_is_told_before_anything_starts(workplace: Workplace) -> None:
    few = "cluster.cache={attempts: 2, timeout_seconds: 2}"
    done = workplace.megabatch("plan", "recipe.yaml", "data.path=http://127.0.0.1:9/data", few)
    assert done.returncode == 2
    assert "http://127.0.0.1:9/data" in done.stderr
    assert "Traceback" not in done.stderr
