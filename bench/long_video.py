"""Videos of hours: a generated one of three hours and one of 10,001 s, indexed and asked by the command line.

    python -m bench.long_video [--lengths 10800,10001] [--json FILE]

In each the digit card shows at the very end, beyond 9,999.9 s, where a time stamp has a digit more. Claims: every
group's stamp, decoded from its tokens, tells the group's time; the last event is asked for by its looks and the best
evidence overlaps it; shape, colour and digit are answered right. The others are asked and told, but no claim: the
embedded model has never seen such times. Exit code: 0 when every claim holds, 1 when one does not, 2 for bad arguments.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.report import tell
from vxlpro_jax.data.conversation import stamp_ids
from vxlpro_jax.data.synthetic import Event, SyntheticVideo, sample_video
from vxlpro_jax.data.synthetic_files import write_video
from vxlpro_jax.data.synthetic_questions import Question, sample_questions, score_answer
from vxlpro_jax.data.tokenizer import load_tokenizer
from vxlpro_jax.infer.video_index import VideoIndex
from vxlpro_jax.loading import EMBEDDED
from vxlpro_jax.models.presets import PRESETS

SEED, SIZE = 11, (112, 112)
CLAIMED = ("shape", "colour", "digit")


def late_video(length_s: int) -> SyntheticVideo:
    """A generated video whose digit card shows during its last three seconds."""
    video = sample_video(SEED, 0, length_s)

    def moved(event: Event) -> Event:
        is_late = event.kind == "digit_card"
        return replace(event, start_s=length_s - 3.0, end_s=float(length_s)) if is_late else event

    events = sorted((moved(event) for event in video.events), key=lambda event: event.start_s)
    return replace(video, events=tuple(events))


def run(command: Sequence[str]) -> tuple[float, str]:
    """(seconds, what vxlpro wrote to stdout)."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vxlpro_jax.cli", *command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"vxlpro {command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - start, done.stdout


def wrong_stamps(times_s: Sequence[float]) -> int:
    """Stamps of either model's format whose tokens do not decode to the group's time."""
    tokenizer = load_tokenizer(EMBEDDED)
    wrong = 0
    for stamps in (PRESETS["tiny"].stamps, PRESETS["video_xl_pro_3b"].stamps):
        ids = stamp_ids(times_s, stamps, tokenizer.encode)
        for time_s, tokens in zip(times_s, ids, strict=True):
            told = float(tokenizer.decode(tokens).strip("Ttimes: "))
            wrong += bool(abs(told - time_s) > (0.5 if stamps == PRESETS["tiny"].stamps else 0.05) + 1e-6)
    return wrong


def asked(index: Path, question: Question) -> dict[str, Any]:
    """What the command line answers, beside what is true."""
    seconds, out = run(["ask", str(index), question.question, "--json"])
    record = json.loads(out)
    best = record["evidence"][0]
    return {
        "kind": question.kind,
        "question": question.question,
        "truth": question.answer,
        "answer": record["text"],
        "is_right": score_answer(question.kind, record["text"], question.answer),
        "event_s": [question.start_s, question.end_s],
        "best_evidence_s": [best["start_s"], best["end_s"]],
        "evidence_overlaps": best["start_s"] < question.end_s and question.start_s < best["end_s"],
        "num_kept": record["num_kept"],
        "num_visual": record["num_visual"],
        "seconds": round(seconds, 1),
        "prefill_s": round(record["timings"]["prefill_s"], 2),
    }


def measure(folder: Path, length_s: int) -> dict[str, Any]:
    video = late_video(length_s)
    start = time.perf_counter()
    write_video(video, folder / "video.mp4", SIZE, 1.0)
    generated_s = time.perf_counter() - start
    indexed_s, _ = run(["index", str(folder / "video.mp4"), "-o", str(folder / "video.vxl")])
    index = VideoIndex.load(folder / "video.vxl")
    answers = [asked(folder / "video.vxl", question) for question in sample_questions(video, 1)]
    claims = {
        "every_second_was_looked_at": len(index.frame_indices) == length_s and bool(index.end_s == length_s),
        "stamps_are_right": wrong_stamps(index.group_times_s) == 0,
        "evidence_is_right": all(one["evidence_overlaps"] for one in answers if one["kind"] in CLAIMED),
        "answers_are_right": all(one["is_right"] for one in answers if one["kind"] in CLAIMED),
        "something_was_late": any(one["best_evidence_s"][1] > 9999.9 for one in answers),
    }
    return {
        "frames": len(index.frame_indices),
        "groups": len(index.tokens),
        "index_bytes": index.tokens.nbytes,
        "last_group_s": float(index.group_times_s[-1]),
        "generated_s": round(generated_s, 1),
        "indexed_s": round(indexed_s, 1),
        "answers": answers,
        "claims": claims,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.long_video", description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", default="10800,10001", help="seconds, with commas, each above 10,000")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result to this file")
    args = parser.parse_args(argv)
    lengths = [int(part) for part in args.lengths.split(",") if part.isdecimal()]
    if not lengths or min(lengths) <= 10_000:
        parser.error(f"--lengths {args.lengths}: seconds above 10,000 are accepted, with commas between them")
    try:
        found = {}
        for length_s in lengths:
            with tempfile.TemporaryDirectory() as folder:
                found[str(length_s)] = measure(Path(folder), length_s)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"bench.long_video: {error}", file=sys.stderr)
        return 2
    result = {
        "command": f"python -m bench.long_video --lengths {args.lengths}",
        "videos": found,
        "holds": all(all(one["claims"].values()) for one in found.values()),
    }
    tell(result, args.json)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
