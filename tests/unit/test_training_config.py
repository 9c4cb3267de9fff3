"""A config file says what a fit runs with; what it says wrongly is named with its key and file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from scorequeue.errors import InputError, UsageError
from training.cli.fit import fit
from training.cli.options import given
from training.config import FitConfig
from training.config_files import NAMES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nightly.yaml"


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_config_is_a_file_that_people_can_copy(name: str, file: Path) -> None:
    """Under its name or as a copy it gives the same settings, and it explains itself."""
    content = (resources.files("training") / "configs" / f"{name}.yaml").read_text("utf-8")
    file.write_text(content)

    assert FitConfig.load(file) == FitConfig.load(name)
    assert content.startswith("# ")
    assert f"training fit --config {name}\n" in content
    assert yaml.safe_load(content).keys() <= FitConfig.model_fields.keys()


def test_the_made_sentences_alone_are_the_quick_config() -> None:
    assert FitConfig.load(dataset="sample") == FitConfig.load("quick")
    assert FitConfig.load(dataset="sample").batch_size == 16


def test_the_defaults_are_the_cola_config() -> None:
    """What docs and help call the default must not differ from the file that they show."""
    assert FitConfig.load("cola") == FitConfig.load()


def test_options_win_over_the_file_and_the_file_over_the_recipe(file: Path) -> None:
    file.write_text("dataset: sample\nepochs: 7\nbatch_size: 8\n")

    config = FitConfig.load(file, batch_size=4, lr=None)

    assert (config.batch_size, config.epochs, config.head_lr, config.lr) == (4, 7, 5e-4, 1e-4)


def test_an_option_may_choose_the_dataset_that_the_recipe_is_of(file: Path) -> None:
    file.write_text("epochs: 2\n")

    config = FitConfig.load(file, dataset="sample")

    assert (config.epochs, config.batch_size) == (2, 16)


def test_null_in_a_file_is_a_value_where_there_is_one(file: Path) -> None:
    file.write_text("dataset: sample\ndropout: null\n")

    assert FitConfig.load(file).dropout is None
    assert FitConfig.load(dataset="sample").dropout == 0


def test_a_rate_without_a_point_is_a_number(file: Path) -> None:
    """YAML 1.1 reads 1e-4 as text, and everybody writes it."""
    file.write_text("lr: 1e-4\n")

    assert FitConfig.load(file).lr == 1e-4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "epoch: there is no such setting; did you mean epochs?"),
        ("frobnicate: 3", "frobnicate: there is no such setting"),
        ("epochs: many", "epochs: Input should be a valid integer"),
        ("epochs: 0", "epochs: Input should be greater than or equal to 1, got 0"),
        ("epochs: 2.5", "epochs: Input should be a valid integer"),
        ("epochs: yes", "epochs: yes and no are no value of it, got True"),
        ("epochs:", "epochs: Input should be a valid integer, got None"),
        ("dataset: 2024", "dataset: Input should be a valid string, got 2024"),
        ("precision: half", "precision: Input should be 'auto'"),
        ("lr: [1, 2]", "lr: Input should be a valid number"),
        ("gate: {margn: 1}", "gate.margn: there is no such setting; did you mean margin?"),
        ("gate: {margin: yes}", "gate.margin: Input should be a valid number, got True"),
        ("gate: 0.02", "gate: expected settings below it, like `margin: 0.02`, got 0.02"),
        ("epochs: 5\nepochs: 6", "names epochs twice"),
        ("devices: 0", "devices: expected a number from 1, or auto, got 0"),
        ("devices: all", "devices: expected a number from 1, or auto, got 'all'"),
        ("devices: 1.5", "devices: expected a number from 1, or auto, got 1.5"),
        ("devices: yes", "devices: expected a number from 1, or auto, got True"),
        ("on: 3", "has the key True"),
        ("", "is empty"),
        ("# nothing yet\n", "is empty"),
        ("- epochs", "holds a list"),
        ("epochs", "holds a str"),
        ("lr: 1\nepochs: 5: 6", "nightly.yaml:2 is not YAML"),
        ("epochs: [", "is not YAML"),
        ("epochs: 5\n---\nepochs: 6", "is not YAML"),
        ("epochs: !!python/name:os.getcwd", "is not YAML"),
        (b"epochs: \xff\xfe", "is not YAML"),
    ],
)
def test_a_fault_is_one_line_with_file_and_key(file: Path, content: str | bytes, message: str) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())

    with pytest.raises(UsageError) as caught:
        FitConfig.load(file)

    assert message in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("devices", ["0", "-1", "x"])
def test_a_number_of_devices_that_cannot_be_says_what_can(devices: str) -> None:
    with pytest.raises(UsageError, match=f"^--devices: expected a number from 1, or auto, got '{devices}'$"):
        FitConfig.load(devices=devices)


@pytest.mark.parametrize("name", ["registry", "runs"])
def test_a_folder_that_is_a_file_is_named(name: str, file: Path) -> None:
    file.write_text(f"{name}: {file}\n")

    with pytest.raises(UsageError, match=f": {name}: expected a folder, .* but it is a file, got '{file}'"):
        FitConfig.load(file)


def test_no_setting_names_the_parts_of_its_type(file: Path) -> None:
    """pydantic puts them into the path of an error, where a user looks for a key."""
    for name in FitConfig.model_fields:
        file.write_text(f"{name}: {{}}\n" if name != "gate" else "gate: 1\n")
        with pytest.raises(UsageError) as caught:
            FitConfig.load(file)
        assert str(caught.value).startswith(f"{file}: {name}: ")


def test_the_fault_of_an_option_is_not_laid_on_the_file(file: Path) -> None:
    file.write_text("epochs: 2\n")

    with pytest.raises(UsageError, match=r"^--batch-size: .*got 0"):
        FitConfig.load(file, batch_size=0)


def test_a_file_that_is_not_there_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config .quik.; did you mean quick\?; expected quick, cola, seed or a"):
        FitConfig.load("quik")
    with pytest.raises(InputError, match="Is a directory"):
        FitConfig.load(tmp_path)


def test_only_what_was_said_leaves_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default of an option must not hide what the config says; a variable of the environment does."""
    monkeypatch.setenv("SCOREQUEUE_FIT_LR", "0.001")
    context = fit.make_context("fit", ["--config", "quick", "--epochs", "2", "--precision", "auto"])

    assert given(context, FitConfig.model_fields) == {"lr": 0.001, "epochs": 2, "precision": "auto"}


def test_each_option_of_fit_is_a_setting_that_a_file_can_hold() -> None:
    own = {"config", "resume", "quiet", "log_level", "log_format"}

    assert {option.name for option in fit.params if isinstance(option, click.Option)} - own <= set(
        FitConfig.model_fields
    )


def test_a_faulty_config_ends_the_command_before_anything_is_loaded(file: Path) -> None:
    file.write_text("epoch: 3\n")

    done = CliRunner().invoke(fit, ["--config", str(file)])

    assert isinstance(done.exception, UsageError)
    assert done.output == ""
