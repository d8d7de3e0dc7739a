"""Checks of prompts, labels, frame sampling and picture tiling against data_pipeline.json."""

import re

import regex

from vxlpro_jax.data.conversation import conversation_prompt, normalise_turns, question_prompt, stamp_ids
from vxlpro_jax.data.frame_sampling import sample_released_inference, sample_released_training
from vxlpro_jax.data.image_transforms import choose_canvas
from vxlpro_jax.models.presets import VIDEO_XL_PRO_3B
from vxlpro_jax.vocabulary import Tokenize

PLACEHOLDER = 151654  # the released code's stand-in for a visual token in its time ids


def toy_tokenizer(golden: dict) -> Tokenize:
    """The tokenizer that made the file: special tokens, then pieces of Qwen2's rule, numbered by toy_vocab."""
    vocab = golden["toy_vocab"]
    numbers = vocab if isinstance(vocab, dict) else {piece: index for index, piece in enumerate(vocab)}
    special = "|".join(re.escape(name) for name in golden["special_tokens"])

    def tokenize(text: str) -> list[int]:
        pieces: list[str] = []
        for part in re.split(f"({special})", text):
            pieces += [part] if part in golden["special_tokens"] else regex.findall(golden["pretokenizer_regex"], part)
        return [numbers[piece] for piece in pieces]

    return tokenize


def check_data_pipeline(golden: dict) -> None:
    """Everything in the file; an unknown section is an error."""
    tokenize = toy_tokenizer(golden)
    checks = {
        "conversations": lambda row: _check_conversation(row, tokenize),
        "prompts": lambda row: _check_prompt(row, tokenize),
        "train_frame_sampling": _check_training_frames,
        "inference_frame_sampling": _check_inference_frames,
        "anyres": _check_canvas,
    }
    assert golden.keys() == {*checks, "toy_vocab", "special_tokens", "pretokenizer_regex"}
    for section, check in checks.items():
        assert golden[section]
        for row in golden[section]:
            check(row)
        print(f"data_pipeline:{section}: identical, {len(golden[section])} rows")


def _check_conversation(row: dict, tokenize: Tokenize) -> None:
    config = VIDEO_XL_PRO_3B
    assert normalise_turns(row["conversation"]) == row["after_multimodal"]
    prompt = conversation_prompt(row["conversation"], tokenize, "released")
    assert prompt.ids.tolist() == row["input_ids"]
    assert prompt.labels.tolist() == row["labels"]
    group_times = row["time_stamps"][:: config.dts.frames_per_group]
    if len(row["input_ids"]) and "time_ids" in row:
        is_picture = len(row["time_ids"]) != len(group_times) * (config.stamps.num_tokens + config.tokens_per_group)
        times = row["time_stamps"] if is_picture else group_times
        stamps = stamp_ids(times, config.stamps, tokenize)
        assert [i for stamp in stamps for i in [*stamp, *[PLACEHOLDER] * config.tokens_per_group]] == row["time_ids"]


def _check_prompt(row: dict, tokenize: Tokenize) -> None:
    question = row["prompt"].split("<image>\n")[1].split("<|im_end|>")[0]
    assert question_prompt(question, tokenize).ids.tolist() == row["input_ids"]


def _check_training_frames(row: dict) -> None:
    choice = sample_released_training(
        row["total_frames"], row["fps"], row["video_fps"], row["frames_upbound"], row["scale"]
    )
    assert list(choice.indices) == row["frame_index"]
    assert list(choice.times_s) == row["timestamps"]
    assert choice.duration_s == row["duration"]


def _check_inference_frames(row: dict) -> None:
    choice = sample_released_inference(row["total_frames"], row["fps"], row["max_frames"])
    assert list(choice.indices) == row["frame_index"]
    assert list(choice.times_s) == row["timestamps"]
    config = VIDEO_XL_PRO_3B
    group_times = choice.times_s[:: config.dts.frames_per_group]
    assert [config.stamps.text.format(time) for time in group_times] == row["stamp_texts"]


def _check_canvas(row: dict) -> None:
    tile = VIDEO_XL_PRO_3B.vision.image_size
    canvas = choose_canvas(row["width"], row["height"], tile)
    assert [canvas.width, canvas.height] == row["best_resolution"]
    assert 1 + canvas.width * canvas.height // tile**2 == row["views"]
    assert list(canvas.box) == row["content_box_xyxy"]
