"""How much of what a language model says about the world is true."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lorecast.world.vocabulary import HIDDEN_FACTORS


def named_value(factor: str, answers: pa.Array) -> pa.StringArray:
    """The value of `factor` that each answer names: null if it names none or more than one."""
    values = HIDDEN_FACTORS[factor].values
    count = pa.array([0] * len(answers), pa.int32())
    named = pa.nulls(len(answers), pa.string())
    for value in values:
        is_named = pc.match_substring(answers, value)
        count = pc.add(count, is_named.cast(pa.int32()))
        named = pc.if_else(is_named, value, named)
    return pc.if_else(pc.equal(count, 1), named, pa.scalar(None, pa.string()))


def is_right(factor: str, answers: pa.Array, accepted: pa.ListArray) -> pa.BooleanArray:
    """Whether each answer names one of the accepted values, or none where none is accepted."""
    named = named_value(factor, answers)
    parent = pc.list_parent_indices(accepted)
    agrees = pc.equal(pc.take(named, parent), accepted.flatten())
    hits: Sequence[int] = parent.filter(agrees.fill_null(False))
    is_hit = pc.is_in(pa.array(range(len(answers)), parent.type), value_set=hits)
    nothing_to_name = pc.and_(pc.equal(pc.list_value_length(accepted), 0), pc.is_null(named))
    return pc.or_(is_hit, nothing_to_name)
