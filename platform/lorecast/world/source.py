"""The source `world`: the tables of the embedded world."""

import hashlib
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lorecast.artifacts import fingerprint
from lorecast.config import EntityColumns, InteractionColumns
from lorecast.data.entities import Entities, entities_of
from lorecast.data.files import Chunk, TableFiles
from lorecast.world.catalogue import World, generate

_INTERACTIONS = "interactions.parquet"
ITEM = EntityColumns(
    file="items", id="item_id", title="title", text=("year", "genre"), features=("genre",)
)
USER = EntityColumns(file="users", id="user_id", text=("age_group", "region"))


class WorldSource:
    """Items with year and genre (genre is also the feature), users with age group and region."""

    columns = InteractionColumns(file=_INTERACTIONS, rating="rating")

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def fingerprint(self) -> str:
        """Digest of the generated tables: it changes when the generator does."""
        world = self._world
        return fingerprint([_digest(t) for t in (world.items, world.users, world.interactions)])

    def interactions(self, scratch: Path) -> TableFiles:
        path = scratch / _INTERACTIONS
        pq.write_table(self._world.interactions, path)
        return TableFiles(paths=(path,))

    def users(self) -> Entities:
        return entities_of(Chunk(0, self._world.users, ()), "the world's users", "user", USER)

    def items(self) -> Entities:
        return entities_of(Chunk(0, self._world.items, ()), "the world's items", "item", ITEM)

    @cached_property
    def _world(self) -> World:
        return generate(self._seed)


def _digest(table: pa.Table) -> str:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()
