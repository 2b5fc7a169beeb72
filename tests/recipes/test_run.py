"""A run folder: stages done once, settings kept, and models that can be asked."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from gorae.checkpoint import save_model
from gorae.observe import read_prices
from gorae.recipes import LaptopSettings, Run
from gorae.recipes.run import load_chat_model


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "mine"


def test_a_stage_is_done_once_however_often_the_run_is_opened(folder):
    calls = []
    for _ in range(3):
        run = Run.open(folder, LaptopSettings())
        made = run.stage("prepare", lambda folder, meter: calls.append(folder))
        assert made == folder / "prepare"
        assert (made / "done").exists()
    assert calls == [folder / "prepare"]


def test_a_stage_that_failed_is_begun_again_in_the_folder_it_left(folder):
    def fail(folder, meter):
        (folder / "half").touch()
        raise RuntimeError("killed")

    run = Run.open(folder, LaptopSettings())
    with pytest.raises(RuntimeError):
        run.stage("rl", fail)
    assert not (folder / "rl/done").exists()
    found = []
    run.stage("rl", lambda folder, meter: found.extend(path.name for path in folder.iterdir()))
    assert found == ["half"]
    (line,) = run.ledger.bill(read_prices()).stages
    assert line.attempts == 2


def test_a_folder_another_process_works_in_is_left_alone(folder):
    run = Run.open(folder, LaptopSettings())
    other = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", other, folder / "lock"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError) as error:
            run.stage("prepare", lambda folder, meter: pytest.fail("the other's work was disturbed"))
        assert str(error.value).startswith(f"another process works in {folder}; wait for it to end, or give another")
        process.kill()
    run.stage("prepare", lambda folder, meter: None)  # a killed process holds nothing


def test_settings_are_saved_and_a_changed_one_is_named_old_and_new(folder):
    Run.open(folder, LaptopSettings(seed=2))  # nothing was done with it yet
    Run.open(folder, LaptopSettings()).stage("prepare", lambda folder, meter: None)
    with pytest.raises(ValueError) as error:
        Run.open(folder, LaptopSettings(seed=4))
    assert str(error.value).startswith(f"{folder} was begun with seed = 0, and now seed = 4 is asked for; give another")
    Run.open(folder, LaptopSettings())


def test_where_to_serve_and_who_samples_is_free_to_change(folder):
    settings = LaptopSettings()
    Run.open(folder, settings).stage("prepare", lambda folder, meter: None)
    Run.open(folder, replace(settings, serve=replace(settings.serve, port=9000)))
    Run.open(folder, replace(settings, rl=replace(settings.rl, workers=3)))


def test_threads_are_set_where_they_are_given_and_left_alone_otherwise(folder, tmp_path):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        Run.open(folder, LaptopSettings())
        assert torch.get_num_threads() == 2
        Run.open(tmp_path / "other", LaptopSettings(threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_model_without_a_tokenizer_can_not_be_asked(tmp_path, network, tokenizer):
    save_model(tmp_path / "mute", network)
    with pytest.raises(
        ValueError, match=r"mute has no tokenizer, and a chat needs one; give a folder with tokenizer.json"
    ):
        load_chat_model(tmp_path / "mute")
    save_model(tmp_path / "model", network, tokenizer=tokenizer)
    assert load_chat_model(tmp_path / "model").tokenizer.vocab_size == 300
