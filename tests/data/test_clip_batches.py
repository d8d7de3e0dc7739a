"""Batches: static shapes, what the selector keeps, broken samples replaced and told, a process's own rows."""

import shutil

import numpy as np
import pytest

from tests.data.feed_setup import SAMPLING, SHAPE, data_config, digest, tokenize
from vxlpro_jax.data.batch_plan import BucketConfig
from vxlpro_jax.data.clip_batches import BatchMaker, KeepConfig
from vxlpro_jax.data.mixture import load_mixture
from vxlpro_jax.data.pipeline import make_plan
from vxlpro_jax.data.records import read_records, write_records
from vxlpro_jax.data.samples import ModelShape, SampleMaker
from vxlpro_jax.data.video_facts import FactStore
from vxlpro_jax.types import IGNORE_LABEL, VIDEO_MARK

STAMP_LEN = len(tokenize("t0000"))


def batches(annotations, keep=None, process=(0, 1), store=None, shape: ModelShape = SHAPE, **changes) -> BatchMaker:
    config = data_config(annotations, **changes)
    keep = keep or config.keep
    mixture = load_mixture(config.mixture, 0)
    plan, _ = make_plan(config, shape, mixture, store or FactStore(None), seed=3)
    maker = SampleMaker(shape, SAMPLING, config.prompt, keep.high, tokenize, STAMP_LEN)
    return BatchMaker(mixture, plan, maker, keep, config.max_media, process)


def test_shapes_are_those_of_the_bucket(small_set):
    make = batches(small_set)
    seen = {}
    for step in range(make.plan.num_steps(1)):
        batch = make(step).batch
        bucket = make.plan.buckets[make.plan.names.index(make.plan[step].bucket)]
        size = bucket.batch_size
        assert batch.frames.shape == (size, bucket.num_groups * 4, 56, 56, 3) and batch.frames.dtype == np.uint8
        assert batch.rows.text_ids.shape == (size, bucket.text_len)
        assert batch.rows.stamp_ids.shape == (size, bucket.num_groups, STAMP_LEN)
        assert batch.relevant.shape == (size, bucket.num_groups) and batch.selection.num_keep.shape == (size, 1)
        assert batch.valid.all() and batch.sample_ids.tolist() == make.plan[step].records.tolist()
        shapes = [np.shape(leaf) for leaf in (*batch.rows, *batch.selection, batch.width)]
        assert seen.setdefault(bucket.num_groups, shapes) == shapes, "one compiled program per bucket"
    assert set(seen) == {2, 4}


def test_rows_say_what_their_records_say(small_set):
    make = batches(small_set)
    has_relevant = 0
    for step in range(make.plan.num_steps(1)):
        batch = make(step).batch
        for row, number in enumerate(batch.sample_ids.tolist()):
            record = make.mixture.record(number)
            labels = batch.rows.labels[row]
            assert labels[labels != IGNORE_LABEL].tolist() == tokenize(f"{record.turns[0][1]}<|im_end|>")
            asked = batch.rows.text_ids[row][batch.rows.query_mask[row]].tolist()
            assert asked == tokenize(record.turns[0][0])
            groups = (batch.rows.video_of_group[row] >= 0).sum()
            assert batch.frames[row, : groups * 4].any() and not batch.frames[row, groups * 4 :].any()
            assert batch.has_relevant[row] == batch.relevant[row].any()
            if record.media_kind == "image":
                assert groups == 1 and not batch.has_relevant[row]
            has_relevant += int(batch.has_relevant[row])
    assert has_relevant > 5


@pytest.mark.parametrize("per", ["batch", "row"])
def test_keep_rates_are_drawn_as_configured(small_set, per):
    shape = ModelShape(**{**SHAPE.__dict__, "selection": "keep_rate", "keep_multiple": 1, "tokens_per_group": 100})
    make = batches(
        small_set, keep=KeepConfig(0.7, 0.95, per), shape=ModelShape(**{**shape.__dict__, "max_context_len": 999})
    )
    spread = []
    for step in range(make.plan.num_steps(1)):
        batch = make(step).batch
        sizes = (batch.rows.video_of_group >= 0).sum(1) * 100
        share = batch.selection.num_keep[:, 0] / sizes
        assert ((share > 0.68) & (share <= 0.95)).all()
        video_rows = (batch.rows.video_of_group >= 0).sum(1) * (100 + STAMP_LEN)
        assert (np.abs(batch.selection.budget / video_rows - share) < 0.02).all()
        spread.append(np.ptp(share))
        fits = (batch.rows.row_source >= 0).sum(1) - sizes + batch.selection.num_keep[:, 0]
        assert (fits <= len(batch.width)).all()
    assert (max(spread) > 0.05) == (per == "row")


def test_a_video_smaller_than_the_rule_keeps_what_it_has(small_set):
    make = batches(small_set)  # 4 tokens a group, counts are rounded down to multiples of 16
    batch = make(0).batch
    sizes = (batch.rows.video_of_group >= 0).sum(1) * SHAPE.tokens_per_group
    assert (batch.selection.num_keep[:, 0] >= np.minimum(sizes, SHAPE.keep_multiple) * (sizes <= 16)).all()
    assert (batch.selection.num_keep[:, 0] > 0).all()


@pytest.mark.parametrize(("max_media", "multiple"), [(1, 16), (3, 16), (3, 1)])
def test_the_width_has_room_for_whatever_the_media_keep(small_set, tmp_path, max_media, multiple):
    """Text of exactly the bucket's length beside media that keep the most they can: nothing is cut at the right."""
    shape = ModelShape(**{**SHAPE.__dict__, "selection": "keep_rate", "keep_multiple": multiple})
    rows = [line for line in read_records(small_set, small_set.parent) if line.media_kind == "image"]
    for number in range(1, max_media + 1):
        raw = dict(rows[0].extra) | {"image": [rows[0].media[0]] * number}
        write_records(tmp_path / "some.jsonl", [raw])
        keep, text_len = KeepConfig(0.95, 0.95, "row"), 64
        for _ in range(2):  # the second time the text has just the length of the bucket
            bucket = {"pictures": BucketConfig(number, text_len, 1)}
            make = batches(tmp_path / "some.jsonl", keep=keep, shape=shape, buckets=bucket, max_media=max_media)
            batch = make(0).batch
            visual = number * SHAPE.tokens_per_group
            full = int((batch.rows.row_source >= 0).sum())
            text_len = full - visual - number * STAMP_LEN
        assert full - visual + batch.selection.num_keep.sum() <= len(batch.width) <= full


def test_processes_share_a_batch(small_set):
    whole = batches(small_set)
    halves = [batches(small_set, process=(i, 2)) for i in range(2)]
    for step in range(4):
        expected, parts = whole(step).batch, [half(step).batch for half in halves]
        for name in ("frames", "relevant", "valid", "sample_ids"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(expected, name))
        for name in expected.rows._fields:
            joined = np.concatenate([getattr(part.rows, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(expected.rows, name))
        joined = np.concatenate([part.selection.num_keep for part in parts])
        np.testing.assert_array_equal(joined, expected.selection.num_keep)
        assert all(len(part.width) == len(expected.width) for part in parts)
    with pytest.raises(ValueError, match="batch_size=4: a multiple of the 3 processes"):
        batches(small_set, process=(0, 3))


def test_pixels_alone_for_reconstruction(small_set):
    make = batches(small_set, prompt="none")
    batch = make(0).batch
    assert (batch.rows, batch.selection, batch.relevant, batch.has_relevant, batch.width) == (None,) * 5
    assert batch.frames.any() and batch.valid.all()


def test_a_broken_sample_is_replaced_told_and_always_by_the_same(tmp_path, small_set):
    folder = tmp_path / "set"
    shutil.copytree(small_set.parent, folder)
    store = FactStore(None)
    batches(folder / "train.jsonl", store=store)  # the plan is made while all is well
    (folder / "0.mp4").write_bytes(b"gone bad")
    make, again = (batches(folder / "train.jsonl", store=store) for _ in range(2))
    told = 0
    for step in range(make.plan.num_steps(1)):
        delivery = make(step)
        broken = {item.record for item in delivery.broken}
        planned = make.plan[step].records
        assert {
            number for number in planned.tolist() if make.mixture.record(number).media[0].endswith("0.mp4")
        } <= broken
        for item in delivery.broken:
            assert item.source.endswith("train.jsonl") and "0.mp4" in item.reason
            assert make.mixture.place(item.record) == (item.source, item.line)
            assert item.taken in delivery.batch.sample_ids
        assert delivery.batch.valid.all()
        assert not any(make.mixture.record(i).media[0].endswith("/0.mp4") for i in delivery.batch.sample_ids.tolist())
        assert digest(delivery.batch) == digest(again(step).batch)
        told += len(delivery.broken)
    assert told >= 6


def test_where_nothing_can_be_read_the_place_stays_empty(tmp_path, small_set):
    folder = tmp_path / "set"
    shutil.copytree(small_set.parent, folder)
    store = FactStore(None)
    batches(folder / "train.jsonl", store=store)
    for path in [*folder.glob("*.mp4"), *folder.glob("*.png")]:
        path.write_bytes(b"gone bad")
    delivery = batches(folder / "train.jsonl", store=store)(0)
    batch = delivery.batch
    assert not batch.valid.any() and not batch.frames.any() and not batch.has_relevant.any()
    assert (batch.rows.labels == IGNORE_LABEL).all() and (batch.rows.video_of_group == -1).all()
    assert (batch.rows.row_source == -1).all() and VIDEO_MARK not in batch.rows.text_ids
    assert {item.taken for item in delivery.broken} == {-1}


def test_rounds_without_room_are_counted(tmp_path):
    turns = [{"from": ("human", "gpt")[i % 2], "value": f"word {i}"} for i in range(8)]
    write_records(tmp_path / "a.jsonl", [{"conversations": turns}] * 3)
    one_round = len(tokenize("<|im_start|>user\nword 0<|im_end|>\n<|im_start|>assistant\nword 1<|im_end|>\n"))
    make = batches(tmp_path / "a.jsonl", prompt="conversation", buckets={"x": BucketConfig(1, 22 + 2 * one_round, 3)})
    assert make(0).rounds_dropped == 3 * 2


def test_impossible_rates_are_refused():
    for low, high in ((0, 1), (0.9, 0.8), (0.5, 1.1)):
        with pytest.raises(ValueError, match="0 < low <= high <= 1"):
            KeepConfig(low, high, "row")
