"""Items encoded on a Ray cluster: workers that hold the model, fed by Ray Data, replaced when they or their machine die."""

import json
import logging
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vidtwin.latent_sets.items import Item
from vidtwin.latent_sets.local import CHUNK, Setup, encode_chunk, killed
from vidtwin.latent_sets.spool import Entry, Spool, entry_of
from vidtwin.threads import cores

ATTEMPTS = 5  # of an item, before it is taken to be what kills its workers: machines may be taken away, too
STORE_BYTES = 200 * 2**20  # of Ray's object store, where Ray is begun here: what goes through it is names and reasons


def needs_ray() -> Any:
    """The module, imported when it is used. Raises ValueError if it is not installed."""
    try:
        import ray.data
    except ImportError:
        raise ValueError("encoding on a cluster needs the package ray: pip install 'vidtwin[ray]'") from None
    return ray


@dataclass(frozen=True)
class Cluster:
    """An encoder for `job.encode_dataset`.

    The workers write into the data set's folder, which all machines must see under one path (a shared file system); sources too, or
    URLs. Ray Data hands out a few items at a time, no faster than they are done.

    Attributes:
        address: of the cluster; None uses the one that this process is connected to, or begins one on this machine.
        workers: how many; default one for each GPU, or core, that the cluster has now.
        gpus: of each worker, also a part of one; None is 1 with device "cuda", else 0.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float | None = None

    def encode(self, setup: Setup, items: Sequence[Item]) -> Iterator[Entry]:
        """What came of each item, as it is done."""
        ray = needs_ray()
        begun = not ray.is_initialized()
        if begun and self.address is not None:
            ray.init(address=self.address, log_to_driver=False)
        elif begun:
            ray.init(
                num_cpus=self.workers or cores(), include_dashboard=False, object_store_memory=STORE_BYTES, log_to_driver=False
            )
        try:
            yield from self._encode(ray, setup, items)
        finally:
            if begun:
                ray.shutdown()

    def _encode(self, ray: Any, setup: Setup, items: Sequence[Item]) -> Iterator[Entry]:
        gpus = (1.0 if setup.plan.device == "cuda" else 0.0) if self.gpus is None else self.gpus
        if setup.plan.device == "cuda" and not gpus > 0:
            raise ValueError(f"gpus={gpus:g}: workers with device='cuda' need a GPU, or a part of one")
        total = ray.cluster_resources()
        workers = self.workers or max(1, int(total.get("GPU", 0) / gpus if gpus else total.get("CPU", 1)))
        size = max(1, min(CHUNK, len(items) // (4 * workers)))
        chunks = [{"items": pickle.dumps(items[start : start + size])} for start in range(0, len(items), size)]
        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        found = ray.data.from_items(chunks, override_num_blocks=len(chunks)).map_batches(
            Worker,
            fn_constructor_args=(setup,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(chunks))),
            num_cpus=0 if gpus else 1,
            num_gpus=gpus,
            max_restarts=-1,  # however often machines are taken away
            max_task_retries=-1,
        )
        for batch in found.iter_batches(batch_size=None, prefetch_batches=0):
            for text in batch["entries"]:
                yield from map(entry_of, json.loads(str(text)))


class Worker:
    """A process of the cluster: the model, on its GPU if it has one."""

    def __init__(self, setup: Setup):
        self.setup, self.engine = setup, setup.engine()
        self.spool = Spool(setup.spool, setup.plan)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Chunks of items -> what came of them, as JSON.

        Items that a worker before this one had done are not done again; those that one had begun when it died come alone, last.
        """
        texts = []
        for chunk in batch["items"]:
            items: list[Item] = pickle.loads(chunk)  # our own driver's
            entries = {item.key: there for item in items if (there := self.spool.pending(item)) is not None and there.is_of(item)}
            left = [item for item in items if item.key not in entries]
            begun = [item for item in left if self.spool.tries(item)]
            for group in ([item for item in left if item not in begun], *([item] for item in begun)):
                if group and self.spool.tries(group[0]) >= ATTEMPTS:
                    found = [killed(self.spool, group[0])]
                else:
                    found = encode_chunk(self.engine, self.setup, group)
                entries |= {entry.key: entry for entry in found}
            texts.append(json.dumps([asdict(entries[item.key]) for item in items]))
        return {"entries": np.array(texts, dtype=object)}
