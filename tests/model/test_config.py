import pytest
import torch

from vidtwin import VidTwin, VidTwinConfig, preset
from vidtwin.model.checkpoint import SHIPPED, WEIGHTS_FILE
from vidtwin.model.config import PRESETS
from vidtwin.model.released import unused_shapes


@pytest.mark.parametrize(
    ("name", "values", "percent"),
    [("paper-0.20", 4928, "0.2046"), ("paper-0.21", 5184, "0.2152"), ("paper-0.17", 4144, "0.1721"), ("released", 8064, "0.3348")],
)
def test_rates_are_those_of_the_paper(name, values, percent):
    config = preset(name)
    assert config.latent_values == values
    assert f"{config.compression_rate:.4%}" == f"{percent}%"


def test_shapes_of_the_released_model():
    config = preset("released")
    assert config.structure_shape == (8, 16, 7, 7)
    assert config.dynamics_x_shape == config.dynamics_y_shape == (8, 16, 7)


@pytest.mark.parametrize(
    ("name", "count"), [("small", 106_894_378), ("base", 312_673_834), ("large", 1_239_632_938), ("released", 312_701_490)]
)
def test_parameter_counts_are_the_measured_ones_less_what_is_never_used(name, count):
    with torch.device("meta"):
        model = VidTwin(preset(name))
    unused = sum(torch.Size(shape).numel() for shape in unused_shapes(preset(name)).values())
    assert sum(p.numel() for p in model.parameters()) == count - unused


def test_shipped_weights_keep_their_promises():
    tiny, mini = preset("tiny"), preset("mini")
    assert tiny.latent_values <= 8064 and tiny.compression_rate < 0.005
    assert 50_000 <= mini.latent_values <= 54_000
    assert (SHIPPED / "tiny" / WEIGHTS_FILE).stat().st_size <= 20e6
    assert (SHIPPED / "mini" / WEIGHTS_FILE).stat().st_size <= 40e6


def test_dynamics_of_tiny_is_the_vector_of_motion_layouts():
    config = preset("tiny")
    assert config.dynamics_x_shape == config.dynamics_y_shape == (8, 16, 7)


def test_presets_survive_a_round_trip_and_unknown_ones_are_refused():
    for config in PRESETS.values():
        assert VidTwinConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="choose one of tiny, mini, small"):
        preset("huge")
    with pytest.raises(ValueError, match="unknown field.*depht"):
        VidTwinConfig.from_dict({"depht": 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 230}, "height=230: must be a multiple of patch=16; use 224 or 240"),
        ({"height": 8}, "use 16"),
        ({"heads": 7}, "hidden=768: must be a multiple of heads=7"),
        ({"depth": 0}, "depth=0: must be a whole number of at least 1"),
        ({"frames": 1.5}, "frames=1.5"),
        ({"structure_downsamples": -1}, "structure_downsamples=-1"),
        ({"temporal_attention": "both"}, "choose 'causal' or 'full'"),
        ({"query_dropout": 1.0}, "query_dropout"),
        ({"hidden": 6, "heads": 1}, "hidden=6: must be a multiple of 4"),
    ],
)
def test_bad_fields_are_named_with_a_remedy(fields, message):
    with pytest.raises(ValueError, match=message):
        VidTwinConfig(**fields)


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_the_shipped_weights_are_of_their_preset(name):
    assert VidTwin.from_pretrained(name).config == preset(name)
