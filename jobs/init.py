"""init: a first experiment for one's own tables."""

from pathlib import Path

from lorecast.config import load_config
from lorecast.data.infer import infer
from lorecast.errors import InputError


def init(path: Path, output: Path) -> None:
    """Writes a commented experiment for the tables in the folder `path`.

    Raises InputError if `output` exists or no table looks like interactions.
    """
    if output.exists():
        raise InputError(f"{output} exists already: name another file with --output")
    text = infer(path)
    try:
        with output.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from None
    load_config(output)
