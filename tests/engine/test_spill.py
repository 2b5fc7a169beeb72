"""Prefixes on disk outlive the process; whatever happens to the folder, a reply is the right one."""

from copy import deepcopy
from random import Random

import pytest
import torch

from gorae import Engine, SamplingParams
from gorae.checkpoint import Model
from gorae.engine.spill import PageFolder
from gorae.model import made_fast

PARAMS = SamplingParams(max_tokens=3, seed=1, ignore_eos=True, logprobs=300)
LONG = [3 + n * n % 290 for n in range(100)]


@pytest.fixture(params=["exact", "fast"])
def either(request, model) -> Model:
    network = deepcopy(model.network)
    return Model(made_fast(network) if request.param == "fast" else network, model.config, model.tokenizer)


def files(folder):
    return sorted(folder.glob("*"))


def test_after_a_restart_a_prefix_is_found_and_every_probability_has_the_bits_it_has_cold(either, tmp_path):
    """Nothing is closed or saved at the end of an engine: a kill leaves the same folder."""
    cold = Engine(either, prefix_cache=False).generate([LONG], PARAMS)[0]
    first = Engine(either, prefix_folder=tmp_path)
    assert first.generate([LONG], PARAMS)[0] == cold
    assert len(files(tmp_path)) == 3
    second = Engine(either, prefix_folder=tmp_path)
    again = second.generate([LONG], PARAMS)[0]
    assert again == cold
    assert again.num_cached == 96
    other = LONG[:70] + [5] * 20
    warm = Engine(either, prefix_folder=tmp_path).generate([other], PARAMS)[0]
    assert warm == Engine(either, prefix_cache=False).generate([other], PARAMS)[0]
    assert warm.num_cached == 64


@torch.no_grad()
def test_other_weights_find_nothing_and_the_old_ones_again_find_theirs(either, tmp_path):
    engine = Engine(either, prefix_folder=tmp_path)
    engine.generate([LONG], PARAMS)
    router = either.network.blocks[1].feed_forward.router_ED
    before = router[0, 0].item()
    router[0, 0] += 1e-3
    assert engine.generate([LONG], PARAMS)[0].num_cached == 0
    assert Engine(either, prefix_folder=tmp_path).generate([LONG], PARAMS)[0].num_cached == 96
    router[0, 0] = before
    assert Engine(either, prefix_folder=tmp_path).generate([LONG], PARAMS)[0].num_cached == 96
    assert len(files(tmp_path)) == 6


def test_exact_and_fast_mode_share_no_page(model, tmp_path):
    Engine(model, prefix_folder=tmp_path).generate([LONG], PARAMS)
    fast = Model(made_fast(deepcopy(model.network)), model.config, model.tokenizer)
    assert Engine(fast, prefix_folder=tmp_path).generate([LONG], PARAMS)[0].num_cached == 0


def test_caches_of_two_types_share_no_page(model, tmp_path):
    fast = Model(made_fast(deepcopy(model.network)), model.config, model.tokenizer)
    for cache_type, num_cached in (("bfloat16", 0), ("int8", 0), (None, 96), ("int8", 96)):
        engine = Engine(fast, prefix_folder=tmp_path, cache_type=cache_type)
        assert engine.generate([LONG], PARAMS)[0].num_cached == num_cached


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-50])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    held = bytearray(path.read_bytes())
    held[len(held) // 2] ^= 1
    path.write_bytes(held)


def removed(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, emptied, flipped, removed])
def test_a_damaged_file_is_left_out_with_a_message_and_written_again(model, tmp_path, capsys, damage):
    cold = Engine(model, prefix_folder=tmp_path).generate([LONG], PARAMS)[0]
    whole = {path: path.read_bytes() for path in files(tmp_path)}
    engine = Engine(model, prefix_folder=tmp_path)
    for path in whole:
        damage(path)
    again = engine.generate([LONG], PARAMS)[0]
    assert again == cold
    assert again.num_cached == 0
    assert ("cut short or damaged: it is left out" in capsys.readouterr().err) == (damage is not removed)
    first = next(iter(engine.runner.page_keys(LONG)))
    assert engine.runner.folder.path_of(first).read_bytes() == whole[engine.runner.folder.path_of(first)]


def test_what_a_kill_left_unfinished_is_no_page(model, tmp_path):
    Engine(model, prefix_folder=tmp_path).generate([LONG], PARAMS)
    path = files(tmp_path)[0]
    path.rename(path.with_suffix(".1.writing"))
    folder = PageFolder(tmp_path, 1 << 30)
    assert len(folder.sizes) == 2
    assert Engine(model, prefix_folder=tmp_path).generate([LONG], PARAMS)[0].num_cached in (0, 32, 64)


def test_a_folder_stays_within_its_bytes_and_lets_the_least_recently_used_go(tmp_path):
    folder = PageFolder(tmp_path, 1000)
    for number in range(5):
        folder.write(f"key{number}", bytes([number]) * 200)
    assert [key in folder for key in ("key0", "key1", "key2", "key3", "key4")] == [False] + [True] * 4
    folder.read("key1")
    folder.write("key5", bytes(200))
    assert "key1" in folder
    assert "key2" not in folder
    folder.write("too large", bytes(1000))
    assert "too large" not in folder
    assert folder.num_bytes == sum(path.stat().st_size for path in files(tmp_path)) <= 1000
    again = PageFolder(tmp_path, 500)
    assert again.num_bytes == sum(path.stat().st_size for path in files(tmp_path)) <= 500
    assert list(again.sizes) == ["key1", "key5"]
    assert again.read("key1") == bytes([1]) * 200


def test_a_small_cache_takes_from_disk_what_it_had_to_let_go(model, tmp_path):
    random = Random(1)
    prompts = [[random.randrange(3, 290) for _ in range(100)] for _ in range(6)]
    cold = Engine(model, prefix_cache=False).generate(prompts, PARAMS)
    engine = Engine(model, cache_tokens=160, prefix_folder=tmp_path)
    for _ in range(2):
        for prompt, expected in zip(prompts, cold, strict=True):
            output = engine.generate([prompt], PARAMS)[0]
            assert output == expected
    assert output.num_cached == 96
    assert engine.runner.cache.book.num_used <= 5


def test_a_folder_that_can_not_be_written_is_refused(model, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(ValueError, match=r"prefixes can not be kept in .* \(Permission denied\); give a prefix folder"):
        Engine(model, prefix_folder=tmp_path)


def test_on_a_full_disk_prefixes_stay_in_memory_and_replies_go_on(model, tmp_path, monkeypatch, capfd):
    other = [*LONG[:70], 5]
    expected = Engine(model, prefix_cache=False).generate([LONG, other], PARAMS)
    engine = Engine(model, prefix_folder=tmp_path)

    def refuse(path, stored):
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", refuse)
    assert [engine.generate([prompt], PARAMS)[0] for prompt in (LONG, other)] == expected
    assert not list(tmp_path.iterdir())
    assert engine.generate([other], PARAMS)[0].num_cached == 64
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_a_folder_without_a_prefix_cache_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="prefix_folder has no use with prefix_cache=False; leave one of them out"):
        Engine(model, prefix_folder=tmp_path, prefix_cache=False)
