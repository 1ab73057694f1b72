"""What goes to a cluster: lorecast's wheel and the experiment file, of a known size."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import lorecast
from lorecast.config import describe_fields
from lorecast.errors import ClusterError, ConfigError
from lorecast.jobs import upload
from tests.conftest import REPOSITORY

_SHARED = "compute.workspace=/mnt/shared/workspace"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return upload.pack(None, tmp_path_factory.mktemp("upload")).wheel


def test_wheel_holds_what_setuptools_would_pack(wheel: Path) -> None:
    setuptools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    roots = {"lorecast": "platform/lorecast", "lorecast.jobs": "jobs", "lorecast.serve": "serve"}
    expected = set()
    for package in setuptools["packages"]:
        root = next(name for name in sorted(roots, reverse=True) if package.startswith(name))
        folder = REPOSITORY / roots[root] / package.removeprefix(root).strip(".").replace(".", "/")
        for pattern in ("*.py", *setuptools["package-data"].get(package, [])):
            for file in folder.glob(pattern):
                inside = file.relative_to(REPOSITORY / roots[root]).as_posix()
                expected.add(f"{root.replace('.', '/')}/{inside}")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= names
    extra = {name for name in names - expected if ".dist-info/" not in name}
    assert extra == set()


def test_wheel_asks_for_no_dependencies_and_lists_its_files(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        assert b"Requires-Dist" not in archive.read(metadata)
        record = archive.read(metadata.replace("METADATA", "RECORD")).decode()
        assert [line.split(",")[0] for line in record.splitlines()] == archive.namelist()


def test_unpacked_wheel_is_the_command_with_all_its_rooms(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import lorecast; from importlib.metadata import entry_points\n"
        "print(lorecast.__file__, entry_points(group='lorecast.commands').names)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    told = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    assert told.startswith(str(tmp_path / "lorecast"))
    assert "serve" in told
    command = [sys.executable, "-m", "lorecast.jobs", "serve", "--help"]
    assert "Ctrl-C" in subprocess.check_output(command, env=environment, text=True)


def test_same_code_same_name_and_other_code_another(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "again").mkdir()
    again = upload.pack(None, tmp_path / "again").wheel
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())
    (tmp_path / "edited").mkdir()
    contents = dict(upload._package_files())
    contents["lorecast/errors.py"] = tmp_path / "errors.py"
    contents["lorecast/errors.py"].write_text("edited = True\n")
    monkeypatch.setattr(upload, "_package_files", contents.items)
    assert upload.pack(None, tmp_path / "edited").wheel.name != wheel.name


def test_upload_is_wheel_and_experiment_alone(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("name: mine\n")
    (tmp_path / "beside.csv").write_text("not to be sent")
    (tmp_path / "out").mkdir()
    packed = upload.pack(experiment, tmp_path / "out")
    environment = packed.runtime_env()
    assert environment["py_modules"] == [str(packed.wheel)]
    assert [p.name for p in Path(environment["working_dir"]).rglob("*")] == ["mine.yaml"]
    assert packed.sizes["mine.yaml"] == len("name: mine\n")


def test_summary_names_size_and_five_largest(tmp_path: Path) -> None:
    packed = upload.Upload(
        tmp_path / "w.whl", tmp_path, {f"f{n}": n * 1_000_000 for n in range(1, 8)}
    )
    assert packed.summary == (
        "upload: 28.0 MB in 7 files, the largest: f7 (7.0 MB), f6 (6.0 MB), f5 (5.0 MB), "
        "f4 (4.0 MB), f3 (3.0 MB)"
    )


@pytest.mark.bad_input
def test_too_much_is_refused_and_the_largest_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"more than 1\.0 MB.*model\.safetensors \(4\.0 MB\)"):
        upload.pack(None, tmp_path, limit_bytes=1_000_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bad_input
def test_workspace_that_would_be_lost_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"compute\.workspace is 'workspace'.*all nodes see"):
        upload.check_experiment([])


def test_what_the_cluster_finds_is_not_warned_about() -> None:
    words = [_SHARED, "dataset.source=movielens", "dataset.path=/mnt/shared/ml-1m"]
    assert upload.check_experiment([*words, "knowledge.llm.model=Qwen/Qwen3-8B"]) == []


def test_a_search_may_be_sent_but_not_be_trained() -> None:
    words = [_SHARED, "training.learning_rate={loguniform: [1e-4, 1e-2]}"]
    assert upload.check_experiment(words, searched=True) == []
    with pytest.raises(ConfigError, match="run `lorecast tune`"):
        upload.check_experiment(words)


@pytest.mark.bad_input
def test_paths_of_this_machine_are_named_by_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "llm").mkdir()
    (tmp_path / "mine.py").write_text("class Net: ...\n")
    (tmp_path / "world").mkdir()  # the default's name is not taken for a folder
    warnings = upload.check_experiment(
        [
            _SHARED,
            "dataset.source=movielens",
            f"dataset.path={tmp_path / 'tables'}",
            "knowledge.llm.model=./llm",
            "model.backbone=mine:Net",
            "compute.address=ray://head:10001",
        ]
    )
    keys = [warning.split(" = ")[0] for warning in warnings]
    assert keys == ["dataset.path", "knowledge.llm.model", "model.backbone", "compute.address"]


def test_every_key_that_may_name_a_file_is_looked_at() -> None:
    kept_or_checked_otherwise = {
        "compute.workspace",
        "compute.cache",
        "serving.llm_mib",
        "dataset.source",
    }
    speaking = {
        key
        for key, _, text in describe_fields()
        if any(word in text for word in ("folder", "file below", "JSON lines"))
    } - kept_or_checked_otherwise
    assert len(speaking) > 8
    assert {key for key in speaking if key.rsplit(".", 1)[-1] not in upload._PATHS} == set()


def test_package_lies_where_the_rooms_are() -> None:
    names = {name for name, _ in upload._package_files()}
    assert {"lorecast/__init__.py", "lorecast/jobs/cli.py", "lorecast/serve/app.py"} <= names
    assert Path(lorecast.__file__) in dict(upload._package_files()).values()
