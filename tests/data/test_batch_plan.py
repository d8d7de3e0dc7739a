"""The plan: a function of (seed, step) that shows every record once per epoch, in batches of one bucket."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vxlpro_jax.data.batch_plan import BatchPlan, BucketConfig, Limits, SampleSizes, measure
from vxlpro_jax.data.frame_sampling import SamplingConfig, count_frames
from vxlpro_jax.data.mixture import load_mixture, survey
from vxlpro_jax.data.records import write_records
from vxlpro_jax.data.video_facts import FactStore

SAMPLING = SamplingConfig("variable", 60.0, (0.5, 1.0), 0.5, 64, 0)
BUCKETS = {"b": BucketConfig(8, 10, 3), "a": BucketConfig(2, 10, 4), "c": BucketConfig(16, 10, 2)}
LIMITS = Limits(max_media=2, max_groups=16, is_tiled=True, takes_text=True)
TURNS = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A card."}]


def sizes_of(num_videos: int, num_pictures: int, weight: float = 1.0, seed: int = 0) -> SampleSizes:
    size = num_videos + num_pictures
    rng = np.random.default_rng(seed)
    is_video = np.arange(size) < num_videos
    span = np.where(is_video, rng.uniform(5, 200, size), 0)
    return SampleSizes(
        is_usable=np.arange(size) % 7 != 3,
        is_video=is_video,
        num_groups=np.where(is_video, 0, rng.integers(0, 5, size)),
        num_frames=np.where(is_video, (span * 5).astype(int), 0),
        span_s=span,
        duration_s=span,
        end_s=span,
        weight=np.full(size, weight),
    )


def plan_of(sizes: SampleSizes, seed: int = 1) -> BatchPlan:
    return BatchPlan(sizes, BUCKETS, SAMPLING, 4, seed)


def test_steps_can_be_asked_in_any_order():
    sizes = sizes_of(60, 30)
    steps = list(range(120))
    forward = plan_of(sizes)
    expected = {step: forward[step] for step in steps}
    for order in (steps[::-1], np.random.default_rng(0).permutation(steps).tolist(), [119, 3]):
        plan = plan_of(sizes)
        for step in order:
            found = plan[step]
            assert found.bucket == expected[step].bucket
            np.testing.assert_array_equal(found.records, expected[step].records)
            np.testing.assert_array_equal(found.draws, expected[step].draws)
    other = plan_of(sizes, seed=2)
    assert any(not np.array_equal(other[step].records, expected[step].records) for step in steps[:5])


def test_every_usable_record_comes_in_every_epoch():
    sizes = sizes_of(60, 30)
    plan = plan_of(sizes)
    usable = set(np.flatnonzero(sizes.is_usable).tolist())
    for epoch in range(3):
        batches = [plan[step] for step in range(plan.num_steps(epoch), plan.num_steps(epoch + 1))]
        counts = Counter(int(record) for batch in batches for record in batch.records)
        assert set(counts) == usable
        assert sum(counts.values()) - len(usable) < sum(bucket.batch_size for bucket in BUCKETS.values())
    size = [len(plan[step].records) for step in range(plan.num_steps(3))]
    assert [plan.num_samples(step) for step in range(len(size))] == np.cumsum(size).tolist()
    first, second = (
        [plan[step].records.tolist() for step in range(plan.num_steps(e), plan.num_steps(e) + 4)] for e in (0, 1)
    )
    assert first != second, "each epoch is shuffled anew"


def test_batches_are_of_one_bucket_that_holds_them():
    sizes = sizes_of(60, 30)
    plan = plan_of(sizes)
    names = Counter()
    for step in range(plan.num_steps(2)):
        draw = plan[step]
        bucket = BUCKETS[draw.bucket]
        names[draw.bucket] += 1
        assert len(draw.records) == len(draw.draws) == bucket.batch_size
        parts = (sizes.num_frames, sizes.span_s, sizes.duration_s)
        frames = count_frames(SAMPLING, *(part[draw.records] for part in parts), draw.draws)
        groups = np.where(sizes.is_video[draw.records], -(-frames // 4), sizes.num_groups[draw.records])
        smaller = [other.num_groups for other in BUCKETS.values() if other.num_groups < bucket.num_groups]
        assert (groups <= bucket.num_groups).all() and (groups > max(smaller, default=-1)).all()
    assert set(names) == {"a", "b", "c"}
    order = [plan[step].bucket for step in range(plan.num_steps(1))]
    assert order != sorted(order), "buckets are mixed"


def test_weights_are_times_per_epoch():
    for weight, epochs in ((2.0, 1), (0.5, 2), (1.25, 4)):
        sizes = sizes_of(40, 40, weight)
        plan = BatchPlan(sizes, {"x": BucketConfig(16, 10, 1)}, SAMPLING, 4, 3)
        counts = Counter(int(plan[step].records[0]) for step in range(plan.num_steps(epochs)))
        assert set(counts) == set(np.flatnonzero(sizes.is_usable).tolist())
        assert set(counts.values()) == {int(weight * epochs)}, "fractions take turns"


def test_substitutes_are_of_the_same_bucket_and_follow_from_the_place():
    sizes = sizes_of(60, 30)
    plan, again = plan_of(sizes), plan_of(sizes)
    step = next(step for step in range(100) if plan[step].bucket == "b")
    epoch_rows = {int(r) for s in range(plan.num_steps(1)) if plan[s].bucket == "b" for r in plan[s].records}
    found = [plan.substitute(step, row, attempt) for row in range(3) for attempt in range(3)]
    assert found == [again.substitute(step, row, attempt) for row in range(3) for attempt in range(3)]
    assert {record for record, _ in found} <= epoch_rows and len(set(found)) > 3


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(ValueError, match="no record of the mixture is usable"):
        plan_of(sizes_of(0, 4)._replace(is_usable=np.zeros(4, bool)))
    with pytest.raises(ValueError, match="each of another num_groups"):
        BatchPlan(sizes_of(3, 3), {"a": BucketConfig(2, 1, 1), "b": BucketConfig(2, 2, 2)}, SAMPLING, 4, 1)


def test_records_are_measured_and_faults_named(tmp_path: Path, small_set):
    for name, size in (("a.png", (112, 56)), ("b.png", (30, 30))):
        Image.new("RGB", size).save(tmp_path / name)
    raws = [
        {"video": str(small_set.parent / "0.mp4"), "conversations": TURNS},
        {"image": "a.png", "conversations": TURNS},
        {"image": ["a.png", "b.png"], "conversations": TURNS},
        {"conversations": TURNS},
        {"video": "none.mp4", "conversations": TURNS},
        {"image": ["a.png"] * 3, "conversations": TURNS},
        {"video": "a.png", "conversations": TURNS},
        {"image": str(small_set.parent / "0.mp4"), "conversations": TURNS},
        {"video": 3, "conversations": TURNS},
        {"video": str(small_set.parent / "4.mp4"), "conversations": TURNS},
    ]
    write_records(tmp_path / "a.jsonl", raws)
    (tmp_path / "mix.yaml").write_text("datasets: [{json_path: a.jsonl, filters: {max_duration_s: 40}}]")
    mixture = load_mixture(tmp_path / "mix.yaml", 0)
    facts = survey(mixture, FactStore(None))
    sizes, skipped = measure(mixture, facts, 56, LIMITS)
    assert sizes.is_usable.tolist() == [True] * 4 + [False] * 6
    assert sizes.num_groups[:4].tolist() == [0, 2, 3, 0] and sizes.num_frames[0] == 64
    reasons = {item.record: item.reason for item in skipped}
    for number, said in {
        4: "no such file",
        5: "3 pictures; data.max_media=2",
        6: "a picture; the record calls it video",
        7: "a video; the record calls it image",
        8: "'video' is 3",
        9: "left out by the filters (60.0 s)",
    }.items():
        assert said in reasons[number]
    assert [item.record for item in skipped if item.kind == "filtered"] == [9]
    assert [item.record for item in skipped if item.kind == "beyond"] == [5]
    untiled, more = measure(mixture, facts, 56, Limits(2, 1, False, False))
    assert untiled.num_groups[1] == 1
    reasons = {item.record: item.reason for item in more}
    assert "2 tiles; the largest bucket holds 1" in reasons[2] and "neither picture nor video" in reasons[3]
