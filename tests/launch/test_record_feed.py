"""Batches from annotated videos: each row has its own video's features, its question, its answer and what shows it."""

from pathlib import Path

import numpy as np
import pytest

from launch.record_feed import RecordFeed, cached_group_features, videos_of
from vxlpro_jax.convert import load_params
from vxlpro_jax.data.records import Record, parse_record
from vxlpro_jax.data.synthetic_pool import write_pool
from vxlpro_jax.data.synthetic_questions import QUESTION_KINDS
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.presets import TINY
from vxlpro_jax.models.video_xl_pro import VideoXLProModel

NUM_GROUPS = 16


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    folder = tmp_path_factory.mktemp("pool")
    raw = [record for records in write_pool(folder, 5, {"busy": 2, "still": 1}) for record in records]
    return [parse_record(record, "train.jsonl", 1, folder) for record in raw]


@pytest.fixture(scope="module")
def feed(records: list[Record]) -> RecordFeed:
    grid = TINY.dts.grid_size
    features = np.zeros((3, NUM_GROUPS, grid, grid, TINY.dts.dim), np.float16) + np.arange(3)[:, None, None, None, None]
    return RecordFeed(records, features, load_tokenizer(EMBEDDED), TINY)


def test_a_row_is_its_record(feed: RecordFeed, records: list[Record]) -> None:
    places = np.array([17, 0, 6])
    batch = feed.batch(places)
    names = [Path(name).name for name in videos_of(records)]
    assert names == ["busy_00000.mp4", "busy_00001.mp4", "still_00000.mp4"]
    assert batch.features[:, 0, 0, 0, 0].tolist() == [2, 0, 1]
    assert [QUESTION_KINDS[kind] for kind in batch.kind] == [records[place].extra["kind"] for place in places]
    tokenizer = load_tokenizer(EMBEDDED)
    for row, place in enumerate(places):
        question, answer = records[place].turns[0]
        said = tokenizer.decode(batch.rows.text_ids[row].tolist(), skip_special_tokens=True)
        labels = batch.rows.labels[row]
        assert question in said and tokenizer.decode(labels[labels >= 0].tolist()).startswith(answer)
    assert batch.relevant[0].all()  # a still video shows its card all the time
    spans = records[0].relevant_s or ()
    groups = {second // 4 for start, end in spans for second in range(int(start), int(end))}
    assert set(np.flatnonzero(batch.relevant[1])) == groups


def test_an_epoch_has_every_record_of_the_chosen_videos_once(feed: RecordFeed) -> None:
    batches = feed.epoch(["busy_00000.mp4", "still_00000.mp4"], 5, seed=1)
    assert len(batches) == 2 and len(set(np.concatenate(batches))) == 10
    assert set(np.concatenate(batches)) <= {*range(6), *range(12, 18)}
    again, other = feed.epoch(["busy_00000.mp4", "still_00000.mp4"], 5, 1), feed.epoch(["busy_00000.mp4"], 3, 1)
    assert np.array_equal(batches, again) and set(np.concatenate(other)) == set(range(6))
    assert (
        sorted(int(n) for b in feed.marking_batches("busy", 6) for n in b.features[:, 0, 0, 0, 0]) == [0] * 6 + [1] * 6
    )


def test_features_are_made_once_and_must_fit_the_records(records: list[Record], tmp_path: Path) -> None:
    config, params = load_params(EMBEDDED, dtype="float32")
    model = VideoXLProModel(config)
    path = tmp_path / "features.npy"
    still = [record for record in records if "still" in record.media[0]]
    made = cached_group_features(model, params, still, path)
    assert made.shape == (1, NUM_GROUPS, 4, 4, 128) and made.dtype == np.float16
    assert np.abs(made[0, 1:].astype(float) - made[0, :1]).mean() < 0.2 * np.abs(made).mean()  # it stands still
    written = path.stat().st_mtime_ns
    assert np.array_equal(cached_group_features(model, params, still, path), made)
    assert path.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="features of 1 videos for 3"):
        RecordFeed(records, made, load_tokenizer(EMBEDDED), config)
