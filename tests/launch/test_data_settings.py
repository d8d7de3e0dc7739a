"""The data block of a configuration: mixtures given in its place, overrides, and slips told with code 2."""

import pytest

from configs.data import feed
from launch.data_settings import parse, read_settings, shape_of, tokenizer_of
from tests.data.feed_setup import SHAPE
from vxlpro_jax.config import model_config
from vxlpro_jax.models.presets import PRESETS, TINY


def test_a_mixture_stands_for_a_configuration():
    settings, options = parse(
        ["--config=a/b.yaml", "--config.data.workers=3", "--json=x.json"], "launch.x", {"json": "", "facts": ""}
    )
    assert (settings.data.mixture, settings.data.workers, settings.preset) == ("a/b.yaml", 3, "video_xl_pro_3b")
    assert options == {"json": "x.json", "facts": None}
    again, _ = parse(["--config", "configs/data/feed.py", "--config.data.mixture=c.json"], "launch.x", {})
    assert again.data.mixture == "c.json" and again.data.sampling == settings.data.sampling


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "--config is needed"),
        (["--config=a.yaml", "more"], "['more'] are no arguments"),
        (["--config=a.yaml", "--config.data.max_mdia=3"], "did you mean"),
        (["--config=a.yaml", "--config.data.workers=many"], "workers"),
        (["--config=a.yaml", "--confg=3"], "confg"),
        (["--config=none.py"], "none.py"),
        (["--config=a.yaml", "--config.preset=huge"], "one of video_xl_pro_3b"),
        (["--config=a.yaml", "--config.data.keep.low=0"], "0 < low <= high <= 1"),
        (["--config=configs/prune.py"], "no block `data`"),
    ],
)
def test_slips_end_with_code_2(argv, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(argv, "launch.x", {})
    assert stopped.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["configs/align.py", "configs/sft.py"])
def test_training_configurations_are_understood(name, capsys):
    train, _ = parse([f"--config={name}"], "launch.x", {})
    heldout, _ = parse([f"--config={name}", "--part=heldout"], "launch.x", {})
    assert shape_of(model_config(train)).label_mask == "answers", "the configuration's switches count"
    assert train.data.mixture and heldout.data.mixture and train.data != heldout.data
    with pytest.raises(SystemExit) as stopped:
        parse([f"--config={name}", "--part=tst"], "launch.x", {})
    assert stopped.value.code == 2 and "data has heldout, train" in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--help"], "launch.x", {"facts": "file of media facts"})
    assert stopped.value.code == 0 and "--facts=...  file of media facts" in capsys.readouterr().out


def test_every_preset_has_a_shape():
    assert shape_of(TINY) == SHAPE, "what the tests of data write out is the embedded model's"
    for preset in PRESETS.values():
        assert shape_of(preset).max_context_len == preset.max_context_len


def test_the_shipped_block_fits_its_model():
    """No sample of the largest bucket outgrows the context, whatever is drawn."""
    settings = read_settings(feed.get_config())
    shape, data = shape_of(PRESETS[settings.preset]), settings.data
    largest = max(data.buckets.values(), key=lambda bucket: bucket.num_groups)
    assert largest.num_groups * shape.frames_per_group == data.sampling.max_frames
    rows = largest.text_len + largest.num_groups * (shape.stamps.num_tokens + shape.tokens_per_group)
    assert rows <= shape.max_context_len
    assert tokenizer_of(settings).vocab_size > 100
