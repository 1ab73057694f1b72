"""A registry in files, which other processes see changing; what following needs of one."""

import shutil
from pathlib import Path

from lorecast.errors import RegistryError
from lorecast.lifecycle.registry import CHAMPION, InMemoryRegistry, ModelVersion


class FolderRegistry(InMemoryRegistry):
    """Version N is the bundle in `folder/N/bundle`; a file each says what an alias names."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def promote(self, number: int, alias: str = CHAMPION) -> None:
        (self._folder / "new").write_text(str(number))
        (self._folder / "new").replace(self._folder / alias)

    def resolve(self, model: str, selector: str | int) -> ModelVersion:
        if (self._folder / "down").exists():
            raise RegistryError("the registry does not answer")
        number = int((self._folder / str(selector)).read_text())
        return ModelVersion(model=model, number=number, run_id=f"run-{number}")

    def download(self, version: ModelVersion, folder: Path) -> None:
        shutil.copytree(self._folder / str(version.number) / "bundle", folder)
