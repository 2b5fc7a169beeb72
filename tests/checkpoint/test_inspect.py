"""What a checkpoint says of itself without being loaded."""

from gorae.checkpoint import convert, convert_to_gguf, inspect, load, save_model
from gorae.config import count_parameters
from gorae.kernels import TILE_KEYS
from gorae.model import Cache


def test_every_byte_of_the_weights_is_counted_by_kind_and_type(tmp_path, network):
    save_model(tmp_path / "saved", network)
    convert(tmp_path / "saved", tmp_path / "fp8", "fp8")
    exact, rounded = inspect(tmp_path / "saved"), inspect(tmp_path / "fp8")
    assert exact.config == rounded.config == network.config
    assert exact.parameters == count_parameters(network.config, with_mtp=True)
    assert {type_name for _, type_name in exact.bytes_of} == {"F32"}
    assert {"attention", "experts", "shared experts", "router", "norms", "embedding", "head", "mtp", "dense"} == {
        kind for kind, _ in exact.bytes_of
    }
    assert rounded.bytes_of["experts", "F8_E4M3"] * 4 == exact.bytes_of["experts", "F32"]
    copies = sum(exact.bytes_of[kind, "F32"] for kind in ("embedding", "head")) // (1 + network.config.num_mtp_modules)
    assert sum(exact.bytes_of.values()) == exact.network_bytes + network.config.num_mtp_modules * copies


def test_the_cache_a_token_takes_is_that_of_the_network(tmp_path, network):
    save_model(tmp_path / "saved", network)
    pages = Cache(network.config, num_pages=0).layers  # page 0, which is nobody's
    held = sum(tensor.nbytes for kinds in pages for tensor in kinds) / TILE_KEYS
    assert inspect(tmp_path / "saved").cache_bytes_per_token == held


def test_a_gguf_file_is_inspected_too(tmp_path, network):
    save_model(tmp_path / "saved", network)
    convert_to_gguf(tmp_path / "saved", tmp_path / "model.gguf", "q8_0")
    found = inspect(tmp_path / "model.gguf")
    all_bytes = (tmp_path / "model.gguf").stat().st_size
    assert 0.5 * all_bytes < found.stored_bytes < all_bytes, "the rest is metadata"
    plain = inspect(tmp_path / "saved").bytes_of
    assert found.bytes_of["router", "F32"] == plain["router", "F32"] / 2, "those of two MTP modules are left out"
    assert {kind for kind, _ in found.bytes_of} == {kind for kind, _ in plain} - {"mtp"}
    assert found.config == load(tmp_path / "model.gguf").config
