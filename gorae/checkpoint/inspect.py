"""What a checkpoint is, from its config.json and headers: no tensor is read but the scales of FP8."""

from collections import Counter
from dataclasses import dataclass
from os import PathLike

from gorae.checkpoint.gguf_read import read_gguf
from gorae.checkpoint.hub import resolve
from gorae.checkpoint.load import bits_in, config_of
from gorae.checkpoint.names import kind_of
from gorae.checkpoint.quantised import are_quantised, panel_shapes
from gorae.checkpoint.shards import Shards, read_published
from gorae.checkpoint.weights import fitting_network
from gorae.config import ModelConfig, Parameters, cache_bytes_per_token, count_parameters


@dataclass(frozen=True)
class Inspection:
    """`bytes_of` counts what lies on the disk by kind of tensor and type, as in ("experts", "F8_E4M3").

    Matrices in panels are of types such as "4-bit panels".
    """

    architecture: str
    config: ModelConfig
    parameters: Parameters
    bytes_of: dict[tuple[str, str], int]
    is_mapped: bool  # whether `load` can leave the weights as they are stored
    is_fast: bool = False  # whether they are quantised, to compute in fast mode alone

    @property
    def stored_bytes(self) -> int:
        """What lies on the disk."""
        return sum(self.bytes_of.values())

    @property
    def bits_per_weight(self) -> float:
        """What lies on the disk, over all parameters."""
        return 8 * self.stored_bytes / self.parameters.total

    @property
    def network_bytes(self) -> int:
        """What the network takes in memory with every weight in float32."""
        return 4 * self.parameters.total

    @property
    def cache_bytes_per_token(self) -> int:
        """What a token's keys and values take in memory, in the form in which these weights are used."""
        return cache_bytes_per_token(self.config, is_fast=self.is_fast)

    @property
    def latent_bytes_per_token(self) -> int | None:
        """What latent and rotary key alone would take in bfloat16; None without a latent."""
        config = self.config
        return None if config.latent_dim is None else 2 * config.num_layers * (config.latent_dim + config.rope_dim)


def inspect(path: str | PathLike[str]) -> Inspection:
    """Inspect a folder, an id or a GGUF file. Raises ValueError for what `load` would refuse by its headers."""
    found = resolve(path)
    is_gguf, is_fast = not found.is_dir() and found.suffix == ".gguf", False
    sizes: Counter[tuple[str, str]] = Counter()
    if is_gguf:
        file = read_gguf(found)
        published, config = file.published, config_of(file.published, found)
        for name, type_name, num_bytes in file.tensors.stored():
            sizes[kind_of(name), type_name] += num_bytes
    else:
        published = read_published(found)
        bits = bits_in(published, found / "config.json")
        is_fast = are_quantised(bits)
        with Shards(found) as shards:
            network = fitting_network(config_of(published, found / "config.json"), shards, bits)
            config, panels = network.config, panel_shapes(network, bits)
            for name in shards:
                layout = shards.layout(name)
                type_name = f"{panels[name].bits}-bit panels" if name in panels else layout.type_name
                sizes[kind_of(name), type_name] += layout.num_bytes
    parameters = count_parameters(config, with_mtp=True)
    return Inspection(published["model_type"], config, parameters, dict(sizes), not is_gguf, is_fast)
