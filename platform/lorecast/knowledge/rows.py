"""What knowledge.parquet holds: one row per side, entity, field and chunk."""

from typing import Final

import pyarrow as pa

STAGE: Final = "generate"
KNOWLEDGE: Final = "knowledge.parquet"
CERTAINTY: Final = "certainty"
SCHEMA: Final = pa.schema(
    [
        ("side", pa.string()),
        ("row", pa.int32()),
        ("id", pa.string()),
        ("field", pa.string()),
        ("factor", pa.string()),
        ("chunk", pa.int32()),
        ("text", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("history_end", pa.int32()),
        ("key", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("weight", pa.float32()),
        (CERTAINTY, pa.float32()),
    ]
)
"""chunk: place inside the field, from 0. history_end: position of the last interaction that the
writer of a user's text saw, null if unknown; null for items. key: the store's; null if imported.
weight: 1, or the share in its chunk's vector where two groups' texts are mixed. certainty: mean
log-probability of the answer's tokens, of all factors' together where one call asks for them; null
if imported or not asked for, absent in tables of older versions."""
