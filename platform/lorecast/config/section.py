"""What every part of the experiment is made of: frozen, typed, unknown keys are errors.

Every field carries a one-line description with its unit. A field marked `EXECUTION` says where or
how fast work is done, never what comes out: it stays out of every fingerprint.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Execution:
    """Marker: the field is execution, not identity."""


EXECUTION = _Execution()

Side = Literal["user", "item"]
Strategy = Literal["base", "all_parameters", "extractor_only"]
TrainingProtocol = Literal["honest", "kar"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A frozen part of the experiment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """The part that decides the result: all fields but the execution ones, as plain values."""

        def plain(value: Any) -> Any:
            if isinstance(value, Section):
                return value.identity()
            if isinstance(value, (tuple, list)):
                return [plain(v) for v in value]
            if isinstance(value, dict):
                return {key: plain(v) for key, v in value.items()}
            return value

        return {
            name: plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if EXECUTION not in field.metadata
        }
