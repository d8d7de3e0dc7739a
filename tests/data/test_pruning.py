"""Tasks are told apart, similarity is what a plain loop says, and a subset keeps its least redundant videos."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from vxlpro_jax.data.pruning import (
    STILL,
    TASKS,
    SubsetRule,
    TaskRules,
    mean_pairwise_similarity,
    sample_frames,
    score_frames,
    select_videos,
    task_of,
)
from vxlpro_jax.data.records import Record, parse_record
from vxlpro_jax.data.synthetic_redundancy import draw_video, write_redundant_video
from vxlpro_jax.data.video_decode import VideoError

NO_NAMES = TaskRules("", {})
NAMES = TaskRules("task", {"mc": "multiple_choice", "cap": "captioning", "oe": "open_ended"})


def record(*questions: str, source: str = "train.json", **more: str) -> Record:
    turns = [{"from": who, "value": text} for q in questions for who, text in (("human", q), ("gpt", "An answer."))]
    return parse_record({"video": "a.mp4", "conversations": turns, **more}, source, 1)


@pytest.mark.parametrize(
    ("question", "task"),
    [
        ("<video>\nDescribe the video in detail.", "captioning"),
        ("Please provide a detailed description of the video.", "captioning"),
        ("Can you summarize what is shown?", "captioning"),
        ("What is happening in this video?", "captioning"),
        ("What does the man describe?", "open_ended"),
        ("Why does the boy laugh?\n<image>", "open_ended"),
        ("Write the name of the city.", "open_ended"),
        ("What is it?\nA. a cat\nB. a dog\nC. a cow", "multiple_choice"),
        (
            "What is it?\n(A) a cat\n(B) a dog\nAnswer with the option's letter from the given choices.",
            "multiple_choice",
        ),
        ("Which one? Respond with only the letter of the correct option.", "multiple_choice"),
        ("Describe it:\nA) with care\nB) or without", "multiple_choice"),
        ("A. Lincoln is seen; where?", "open_ended"),
    ],
)
def test_the_question_tells_the_task_where_nothing_else_does(question: str, task: str) -> None:
    assert task_of(record(question), NO_NAMES) == task


def test_the_annotation_comes_before_the_file_and_the_file_before_the_question() -> None:
    describe, file_name = "Describe the video.", "data/0_30_s_academic_mc_v0_1_qa_processed.json"
    assert task_of(record(describe, source=file_name), NAMES) == "multiple_choice"
    assert task_of(record(describe, source=file_name, task="OE "), NAMES) == "open_ended"
    assert task_of(record(describe, source=file_name, task="poetry"), NAMES) == "multiple_choice"
    assert task_of(record(describe, source="data/macro_mcx.json", task="poetry"), NAMES) == "captioning"
    assert task_of(record(describe, source=r"C:\mc\train.json"), NAMES) == "captioning"


def test_most_questions_decide_and_the_first_on_a_tie() -> None:
    assert task_of(record("Why?", "Describe it.", "When?"), NO_NAMES) == "open_ended"
    assert task_of(record("Describe it.", "When?"), NO_NAMES) == "captioning"


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tasks.names.vqa='vqa': one of captioning, multiple_choice, open_ended"):
        TaskRules("", {"vqa": "vqa"})


def test_similarity_is_the_mean_over_all_pairs() -> None:
    features = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    plain = np.mean([float(a @ b) for a, b in combinations(unit, 2)])
    assert mean_pairwise_similarity(features) == pytest.approx(plain, abs=2e-6)
    assert mean_pairwise_similarity(features * np.arange(1, 8)[:, None]) == mean_pairwise_similarity(features)
    assert mean_pairwise_similarity(np.repeat(features[:1], 5, axis=0)) == 1.0
    assert mean_pairwise_similarity(np.array([[1.0, 0], [-1, 0]])) == -1.0


@pytest.mark.parametrize("bad", [np.zeros((3, 4)), np.array([[1.0, np.nan], [1, 1]])])
def test_senseless_features_are_no_score(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not finite, or zero"):
        mean_pairwise_similarity(bad)


def test_the_encoder_always_sees_the_same_shape_and_padding_does_not_count() -> None:
    seen = []

    def encode(frames: np.ndarray) -> np.ndarray:
        seen.append(frames.shape)
        return frames.reshape(len(frames), -1).astype(np.float32)

    frames = np.random.default_rng(1).integers(0, 255, (3, 4, 4, 3), np.uint8)
    assert score_frames(frames, encode, 6) == mean_pairwise_similarity(frames.reshape(3, -1))
    assert seen == [(6, 4, 4, 3)]
    assert score_frames(frames[:1], encode, 6) == STILL and len(seen) == 1


def test_sampled_frames_are_resized_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_redundant_video(draw_video(3, 0, "busy", 40), path)
    sampled = sample_frames(str(path), 20, 28)
    assert sampled.frames.shape == (20, 28, 28, 3) and sampled.frames.dtype == np.uint8
    assert (sampled.num_lost, sampled.duration_s) == (0, 40.0)
    assert len(sample_frames(str(path), 64, 28).frames) == 40  # no frame twice


def test_a_damaged_video_is_scored_on_what_is_left_or_broken_when_too_little_is(
    shared_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = str(shared_videos / "corrupted.mp4")  # frames 28 to 49 of 50 are lost
    sampled = sample_frames(damaged, 20, 28)
    assert len(sampled.frames) == 11 and sampled.num_lost == 9
    monkeypatch.setattr("vxlpro_jax.data.pruning._MOST_LOST", 0.4)
    with pytest.raises(VideoError, match="9 of the frames asked for cannot be decoded"):
        sample_frames(damaged, 20, 28)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(VideoError, match="empty"):
        sample_frames(str(empty), 20, 28)


SIMILARITY = {"d": 0.5, "b": 0.9, "a": 0.9, "c": 0.99, "e": 0.1}


@pytest.mark.parametrize(
    ("rule", "videos", "limit"),
    [
        (SubsetRule("threshold", 0.9), "eadb", 0.9),
        (SubsetRule("threshold", 0.05), "", None),
        (SubsetRule("share", 0.6), "eda", 0.9),  # a before b: of equal ones the earlier name
        (SubsetRule("share", 0.01), "e", 0.1),
        (SubsetRule("all", 0.0), "abcde", 0.99),
    ],
)
def test_a_subset_keeps_its_least_redundant_videos(rule: SubsetRule, videos: str, limit: float | None) -> None:
    assert select_videos(SIMILARITY, rule) == (frozenset(videos), limit)
    assert select_videos(dict(reversed(SIMILARITY.items())), rule).videos == frozenset(videos)
    assert select_videos({}, rule) == (frozenset(), None)


def test_senseless_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="value=1.5: a threshold is a cosine"):
        SubsetRule("threshold", 1.5)
    with pytest.raises(ValueError, match=r"value=0.0: a share above 0"):
        SubsetRule("share", 0.0)
    assert len(TASKS) == 3
