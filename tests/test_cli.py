"""The command line, verb by verb, on real digits; and one clear line for what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condvae import cli
from condvae.config import Config, ModelConfig, load_recipe, to_toml
from condvae.errors import UserError
from condvae.files import read_tensors, write_tensors

Maker = Callable[..., Path]


@pytest.fixture
def run(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run that a test may write to."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def condvae(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "condvae", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> str:
    """What is said of wrong arguments: one line, exit code 2."""
    monkeypatch.setattr(sys, "argv", ["condvae", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(error.strip().splitlines()) == 1, error
    assert error.startswith("condvae: ") and "Traceback" not in error
    return error


# ------------------------------------------------------------------------------------- the verbs at work


def test_help_answers_without_loading_anything_heavy() -> None:
    code = (
        "import sys; from condvae import cli; cli.run(['--help']); cli.run(['recipes']);"
        "heavy = {'torch', 'sklearn', 'matplotlib', 'accelerate', 'PIL', 'pandas', 'gradio',"
        " 'huggingface_hub'};"
        "heavy &= set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("train", "swap", "evaluate", "sample", "audit", "data", "recipes", "mnist-notebook"):
        assert word in done.stdout


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [verb, "mnist-sample", "--help"] if verb == "train" else [verb, "--help"]
    with pytest.raises(SystemExit) as ended:
        cli.run(arguments)
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--" in printed or verb in ("data", "recipes")
    if verb == "train":
        for flag in ("--data", "--test-data", "--epochs", "--minutes", "--seed", "--resume", "--out"):
            assert f"{flag} " in printed.replace("\n", " ")


def test_train_from_the_command_line(tmp_path: Path, small: Config) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(to_toml(small), "utf-8")
    done = condvae(
        "train", recipe, "--epochs", "0.1", "--model.latents", "3", "--seed", "5", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    config = load_recipe(tmp_path / "runs" / "mine" / "config.toml")
    assert (config.training.epochs, config.model.latents, config.training.seed) == (0.1, 3, 5)
    assert "images/s" in done.stderr and "left" in done.stderr, "a rate and an estimate"
    assert "condvae swap" in done.stdout


def test_minutes_and_epochs_on_the_command_line_replace_each_other() -> None:
    begun = load_recipe("mnist-sample")
    assert begun.training.minutes > 0
    from dataclasses import replace

    asked = replace(begun, training=replace(begun.training, epochs=3.0))
    settled = cli.one_length(begun, asked).training
    assert (settled.epochs, settled.minutes) == (3.0, 0.0)


def test_swap_draws_and_writes_it_all_down(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["swap", str(run)])
    figures = run / "figures"
    printed = capsys.readouterr().out.split()
    for name in ("correct-labels", "wrong-labels", "every-label", "samples"):
        assert str(figures / f"{name}.png") in printed
        with Image.open(figures / f"{name}.png") as image:
            assert image.width > 500
    with Image.open(figures / "wrong-labels.png") as image:
        assert image.width == 2 * 24 + 5 * (2 * 84 + 2 + 22) - 22
    shown = json.loads((figures / "swap.json").read_text())
    assert len(shown["images"]) == 25 and shown["split"] == "test"
    assert all(entry["label"] != entry["given_label"] for entry in shown["images"])
    labels = [entry["label"] for entry in shown["images"]]
    assert set(labels) == set(range(10)), "every class is shown"


def test_swap_of_the_whole_test_set_as_arrays(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "arrays" / "all.npz"
    whole = ["swap", str(run), "--all", "--arrays", str(file), "--out", str(tmp_path / "figures")]
    cli.run(whole)
    with np.load(file, allow_pickle=False) as arrays:
        assert arrays["image"].shape == arrays["output"].shape == (1000, 1, 28, 28)
        assert arrays["image"].dtype == arrays["output"].dtype == np.uint8
        assert (arrays["label"] != arrays["given_label"]).all()
        first = {key: arrays[key] for key in arrays}
    cli.run(whole)
    with np.load(file) as again:
        assert all((again[key] == first[key]).all() for key in first), "the same seed, the same swaps"
    cli.run([*whole, "--encode-with", "wrong"])
    with np.load(file) as other:
        assert (other["given_label"] == first["given_label"]).all()
        assert (other["output"] != first["output"]).any()
    assert not (run / "figures").exists(), "--out is where everything went"


def test_sample_by_number_and_by_name(run: Path, tmp_path: Path) -> None:
    cli.run(["sample", str(run), "--labels", "3", "7", "--count", "4", "--out", str(tmp_path / "s")])
    with np.load(tmp_path / "s" / "samples.npz", allow_pickle=False) as drawn:
        assert drawn["labels"].tolist() == [3] * 4 + [7] * 4
        assert drawn["images"].shape == (8, 1, 28, 28) and drawn["images"].dtype == np.uint8
        warm = drawn["images"]
    cold = ["--temperature", "0", "--out", str(tmp_path / "t")]
    cli.run(["sample", str(run), "--labels", "3", "--count", "4", *cold])
    with np.load(tmp_path / "t" / "samples.npz") as drawn:
        assert (drawn["images"] == drawn["images"][:1]).all(), "at temperature 0 there is one image"
    assert (warm[0] != warm[1]).any()


def test_a_ladder_from_training_to_its_pictures(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "groups=[1,2,1],channels=[6,2,1],widths=[16,16,16],blocks=[0,1,0]"
    model = replace(ModelConfig(), family=f"ladder({options})")
    recipe = tmp_path / "ladder.toml"
    training = replace(small.training, optimiser="muon", epochs=0.3, batch_size=64)
    recipe.write_text(to_toml(replace(small, model=model, training=training)))
    run = tmp_path / "run"
    cli.run(["train", str(recipe), "--out", str(run)])
    cli.run(["swap", str(run), "--count", "4"])
    with Image.open(run / "figures" / "groups.png") as picture:
        assert picture.width > 300 and picture.height > 300
    capsys.readouterr()
    cli.run(["evaluate", str(run), "--samples", "2", "--no-labels", "--train-images", "0"])
    printed = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert len(found["kl_nats_by_group"]) == 4 and found["latents"] == 6 + 2 * 49 * 2 + 196
    assert f"{sum(found['kl_nats_by_group']):.2f}" == f"{found['rate_nats']:.2f}"
    assert "KL by group" in printed and "judge" not in printed and "swap_accuracy" not in found
    assert "6 in 1" not in (card := (run / "README.md").read_text()) and "in 4 groups" in card
    for temperatures in (["0.5"], ["0", "0", "0", "0"]):
        cli.run(["sample", str(run), "--count", "2", "--temperature", *temperatures])
    with np.load(run / "figures" / "samples.npz") as drawn:
        assert (drawn["images"][::2] == drawn["images"][1::2]).all()
    with pytest.raises(UserError, match="2 temperatures for 4 groups"):
        cli.run(["sample", str(run), "--temperature", "1", "1"])


def test_evaluate_prints_a_table_and_writes_its_numbers(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.run(["evaluate", str(run), "--samples", "4"])
    printed = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())
    assert (found["split"], found["images"], found["samples"]) == ("test", 1000, 4)
    assert found["weights"] == "EMA" and "dynamic" in found["binarisation"]
    assert found["elbo_nats"] < found["log_likelihood_nats"]
    assert found["log_likelihood_nats"] - found["marginal_log_likelihood_nats"] <= np.log(10) + 1e-6
    assert found["bits_per_dim"] is None, "a binarised image has no bits/dim of 256 values"
    for key in ("judge", "reconstruction", "swap", "sample"):
        assert 0 <= found[f"{key}_accuracy"] <= 1
        assert f"{found[f'{key}_accuracy']:.4f}" in printed
    assert set(found["latent_probe_accuracy"]) == {"linear", "mlp"} and found["chance"] == 0.1
    assert list(found["judges"]) == ["residual", "plain", "gradients"]
    assert found["counterfactual_score"] <= min(found["counterfactual_shares"].values())
    assert f"{found['counterfactual_score']:.4f}" in printed
    assert 0 <= found["realism"]["discriminator_auroc"] <= 1
    assert 0 <= found["generative_calibration_error"] <= 1
    assert set(found["style"]) == {"slant", "thickness", "width", "height"}
    assert set(found["style"]["slant"]) == {"swaps", "reconstructions", "random_image"}
    assert set(found["seconds"]) == {"bounds", "train", "judges", "labels", "probes"}
    assert found["bound_curve"]["samples"] == [1, 2, 4] and found["precision"] == "fp32"
    assert (found["train"]["images"], found["train"]["samples"]) == (1000, 4)
    assert f"{found['distortion_nats']:.2f}" in printed and "1,000 training images" in printed
    assert "ais" not in found and "annealed" not in printed
    assert str(run / "figures" / "bounds.png") in printed.split()
    with Image.open(run / "figures" / "bounds.png") as picture:
        assert picture.width > 500
    assert found["judge_accuracy"] > 0.97
    assert f"{found['elbo_nats']:.2f}" in (run / "README.md").read_text()


def test_annealing_and_bf16_are_there_for_the_asking(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere" / "few.json"
    asked = ["--ais", "3", "--ais-steps", "20", "--precision", "bf16", "--train-images", "0"]
    cli.run(["evaluate", str(run), "--samples", "2", "--out", str(out), *asked])
    found = json.loads(out.read_text())
    assert found["precision"] == "bf16" and "train" not in found
    ais = found["ais"]
    assert (ais["images"], ais["steps"]) == (3, 20)
    difference = ais["log_likelihood_nats"] - ais["importance_weighted_nats"]
    assert ais["difference_nats"] == pytest.approx(difference)
    assert ais["simulated"]["lower_nats"] < ais["simulated"]["upper_nats"]
    printed = capsys.readouterr().out
    assert "annealed minus" in printed and "networks in bf16" in printed.replace("\n", " ")
    assert out.with_suffix(".png").exists() and not (run / "figures").exists()


def test_the_notebooks_loss_is_never_printed_as_a_bound(
    small: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from condvae.verbs.train import train

    notebook = load_recipe("mnist-notebook")
    config = replace(
        notebook,
        data=small.data,
        training=replace(notebook.training, epochs=1.0, device="cpu"),
    )
    run = train(config, tmp_path / "run", quiet=True)
    cli.run(["evaluate", str(run), "--samples", "4"])
    found = json.loads((run / "evaluation.json").read_text())
    assert found["elbo_nats"] is None and found["marginal_log_likelihood_nats"] is None
    assert found["objective_nats_no_bound"] > 100 and found["weights"] == "last"
    assert found["train"]["objective_nats_no_bound"] > 100 and "elbo_gap_nats" not in found["train"]
    assert not (run / "figures" / "bounds.png").exists()
    with pytest.raises(cli.UserError, match="no probability"):
        cli.run(["evaluate", str(run), "--ais", "2"])
    assert "no bound" in capsys.readouterr().out


def test_a_folder_from_training_to_pictures(class_folder: Maker, tmp_path: Path) -> None:
    folder = class_folder(classes=("cat", "<dog>", "sea  lion"), number=40, side=20)
    (folder / "cat" / "3.png").write_bytes(b"not an image")
    arguments = ["train", "folder", "--data", str(folder), "--epochs", "1", "--data.image-size", "16"]
    arguments += ["--model.network", "conv(width=8, patch=4, hidden=16)", "--out", str(tmp_path / "run")]
    with pytest.raises(cli.UserError, match=r"cat/3\.png"):
        cli.run(arguments)
    cli.run([*arguments, "--skip-unreadable"])
    cli.run(["swap", str(tmp_path / "run")])
    cli.run(["sample", str(tmp_path / "run"), "--labels", "<dog>", "1"])
    cli.run(["evaluate", str(tmp_path / "run"), "--samples", "2"])
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 < found["bits_per_dim"] < 16
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "&lt;dog>" in card and "<dog>" not in card and "log p(x\\|y)" in card
    assert found["bits_per_dim"] == pytest.approx(
        -found["marginal_log_likelihood_nats"] / (3 * 16 * 16 * np.log(2))
    )


def test_test_data_elsewhere_is_the_test_split(class_folder: Maker, tmp_path: Path) -> None:
    train, test = class_folder(name="a", number=30), class_folder(name="b", number=6)
    other = class_folder(name="c", classes=("cat", "cow"))
    arguments = ["train", "folder", "--data", str(train), "--epochs", "1", "--data.image-size", "8"]
    arguments += ["--model.network", "mlp(widths=[16])", "--out", str(tmp_path / "run")]
    with pytest.raises(cli.UserError, match="its classes"):
        cli.run([*arguments, "--test-data", str(other)])
    cli.run([*arguments, "--test-data", str(test)])
    cli.run(["evaluate", str(tmp_path / "run"), "--samples", "2"])
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (found["split"], found["images"], found["source"]) == ("test", 12, "b")
    assert found["training"]["images"] == 56, "all of the training source but four for validation"


def test_data_and_recipes_are_listed(capsys: pytest.CaptureFixture[str], class_folder: Maker) -> None:
    cli.run(["data", "list"])
    cli.run(["data", "info", str(class_folder())])
    cli.run(["recipes"])
    printed = capsys.readouterr().out
    for name in (
        "mnist-sample",
        "fashion-mnist",
        "cifar10",
        "inside condvae",
        '"cat": 10',
        "cifar10-notebook",
    ):
        assert name in printed


def test_a_run_directory_moves_and_loads_anywhere(run: Path, tmp_path: Path) -> None:
    moved = run.rename(tmp_path / "elsewhere")
    done = condvae("sample", moved, "--count", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


# --------------------------------------------------------------------------------------- what is refused


def test_wrong_verbs_recipes_and_flags(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    new = ["train", "mnist-sample", "--out", run / "new"]
    said = [
        ("did you mean 'train'", ["trian"]),
        ("name a recipe first", ["train"]),
        ("did you mean 'mnist-sample'", ["train", "mnist-sampel"]),
        ("the recipe comes first", ["train", "--epochs", "3"]),
        ("--epoch", ["train", "mnist-sample", "--epoch", "3"]),
        ("--model.latens", ["train", "mnist-sample", "--model.latens", "3"]),
        ("three", ["train", "mnist-sample", "--epochs", "three"]),
        ("--cuont", ["swap", run, "--cuont", "3"]),
        ("must be at least 1", ["swap", run, "--count", "0"]),
        ("use true or wrong", ["swap", run, "--encode-with", "both"]),
        ("--arrays", ["swap", run, "--all"]),
        ("must be at least 1", ["evaluate", run, "--samples", "0"]),
        ("--train-images -1", ["evaluate", run, "--train-images", "-1"]),
        ("--ais-steps 1", ["evaluate", run, "--ais", "2", "--ais-steps", "1"]),
        ("use fp32 or bf16", ["evaluate", run, "--precision", "fp8"]),
        ("no such class", ["sample", run, "--labels", "10"]),
        ("no such class", ["sample", run, "--labels", "cat"]),
        ("must be a number of 0 or more", ["sample", run, "--temperature", "-1"]),
        ("no dataset of that name", ["data", "info", "minst"]),
        ("no such file or folder", ["evaluate", run, "--data", "nowhere"]),
        ("--device tpu", ["swap", run, "--device", "tpu"]),
        ("File name too long", ["swap", "x" * 5000]),
        ("File name too long", [*new, "--data", "x" * 5000]),
        ("no such file or folder", [*new, "--data", "~nobody-of-that-name/x"]),
        ("[model]", [*new, "--model.network", "mlp(widths=[-3])"]),
        ("beyond 65,536", [*new, "--model.prior", "vamp(components=99999999)"]),
        ("condvae swap", ["swap"]),
        ("--minutes 0", ["audit", "mnist-sample", "--minutes", "0"]),
        ("--budget 0", ["audit", "mnist-sample", "--budget", "0"]),
        ("did you mean 'generative'", ["audit", "mnist-sample", "--scores", "generativ"]),
        ("no dataset of that name", ["audit", "minst"]),
        ("cannot be read", ["audit", "apply", "nowhere.json", "--out", "copy"]),
        ("--out", ["audit", "apply", "nowhere.json"]),
    ]
    for expected, arguments in said:
        assert expected in refused(capsys, monkeypatch, *arguments)


def test_what_is_no_run_directory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, run: Path, tmp_path: Path
) -> None:
    model = run / "model.safetensors"
    whole = model.read_bytes()
    tensors, about = read_tensors(model, "")
    assert "no such run directory" in refused(capsys, monkeypatch, "swap", tmp_path / "nowhere")
    assert "not a run directory" in refused(capsys, monkeypatch, "swap", tmp_path)
    for content in (b"", whole[: len(whole) // 2], b"\x80\x04pickle", whole[:200]):
        model.write_bytes(content)
        assert "damaged" in refused(capsys, monkeypatch, "evaluate", run)
    changes = [
        (about | {"format": 99}, "install the version that wrote it"),
        (about | {"shape": [3, 32, 32]}, "do not fit together"),
        (about | {"shape": [1, 1 << 40, 1 << 40]}, "do not fit together"),
        (about | {"training": None}, "do not fit together"),
        (about | {"config": []}, "holds no recipe"),
        ([], "do not fit together"),
        (about | {"class_names": ["a", "b"]}, "do not fit together"),
        ({}, "do not fit together"),
    ]
    for changed, expected in changes:
        write_tensors(model, tensors, changed)
        assert expected in refused(capsys, monkeypatch, "sample", run)
    model.unlink()
    assert "has not finished" in refused(capsys, monkeypatch, "sample", run)


def test_data_of_other_classes_is_refused_and_of_another_size_is_fitted(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run: Path,
    tmp_path: Path,
    class_folder: Maker,
) -> None:
    error = refused(capsys, monkeypatch, "swap", run, "--data", class_folder())
    assert "its classes (cat, dog ...)" in error
    digits = class_folder(classes=tuple("0123456789"), number=20, name="digits", side=40)
    cli.run(["swap", str(run), "--data", str(digits), "--out", str(tmp_path / "figures")])
    assert (tmp_path / "figures" / "wrong-labels.png").exists()


def test_one_line_and_no_traceback_from_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK")
    done = condvae("train", "mnist-sample", "--data", "bad.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "bad.npz" in done.stderr
    assert not (tmp_path / "runs" / "mnist-sample" / "model.safetensors").exists()
