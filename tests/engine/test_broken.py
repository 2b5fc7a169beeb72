"""Weights that are no numbers: the error names where they stand, and the engine answers again once they are mended."""

import copy

import pytest
import torch

from gorae.checkpoint import Model
from gorae.engine import Engine, SamplingParams

PLACES = {
    "embedding_WD": "the embedding is where that begins",
    "blocks.0.attention.output_DHV": "layer 0 of 3",
    "blocks.2.feed_forward.shared.down_DF": "layer 2 of 3",
    "norm_D": "the last norm or the head is where that begins",
}


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", PLACES)
def test_the_first_place_whose_numbers_are_none_is_named(model, name, number):
    network = copy.deepcopy(model.network)
    network.state_dict()[name].view(-1)[5 * model.config.model_dim if name == "embedding_WD" else 0] = number
    engine = Engine(Model(network, model.config, None))
    with pytest.raises(ValueError) as error:
        engine.generate([[5, 6, 7]], SamplingParams(max_tokens=3))
    assert PLACES[name] in str(error.value)
    network.load_state_dict(model.network.state_dict())
    params = SamplingParams(max_tokens=3, seed=1, ignore_eos=True)
    whole = Engine(Model(model.network, model.config, None))
    assert engine.generate([[5, 6, 7]], params) == whole.generate([[5, 6, 7]], params)


def test_a_weight_beside_the_way_breaks_nothing(model):
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.embedding_WD[9] = float("nan")  # of a token that is not in the text
    output = Engine(Model(network, model.config, None)).generate([[5, 6]], SamplingParams(max_tokens=1, temperature=0))
    assert output[0].finish_reason == "length"
