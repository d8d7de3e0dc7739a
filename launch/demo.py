"""What `make demo` runs: the embedded model answers questions about a video; evidence, truth and seconds are shown.

python -m launch.demo [--video FILE --question TEXT] [--json FILE]
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

import vxlpro_jax
from launch.whole_file import write_whole
from vxlpro_jax.data.synthetic_questions import score_answer

ASSETS = Path(vxlpro_jax.__file__).parent / "assets"
VIDEO = ASSETS / "demo.mp4"
TRUTH = ASSETS / "demo.json"  # rows of launch.synthesize's truth.jsonl


def main() -> int:
    """Exit code 1 when an answer contradicts the known truth, 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--video", type=Path, help="your own video (default: the one that ships here)")
    parser.add_argument("--question", action="append", help="your own question; may be given several times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    truth = [] if arguments.video or arguments.question else json.loads(TRUTH.read_text())
    if arguments.video and not arguments.question:
        parser.error("--video needs a --question about it")
    questions = arguments.question or [row["question"] for row in truth]
    try:
        report = run(arguments.video or VIDEO, questions, truth)
        show(report)
        if arguments.json:
            write_whole(arguments.json, json.dumps(report, indent=1))
    except (ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    return 0 if all(answer.get("right", True) for answer in report["answers"]) else 1


def run(video: Path, questions: list[str], truth: list[dict[str, Any]]) -> dict[str, Any]:
    """Indexes the video, asks each question, and marks the answers where the truth is known."""
    start = time.perf_counter()
    model = vxlpro_jax.load()
    load_s = time.perf_counter() - start
    with tqdm(desc=f"encoding {video.name}", unit="frame") as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        index = model.index(video, progress=progress)
    answers = []
    for number, question in enumerate(tqdm(questions, desc="answering", unit="question")):
        answer = model.ask(index, question)
        row = {"question": question, "text": answer.text, "evidence": answer.evidence[:3], "timings": answer.timings}
        if truth:
            known = truth[number]
            group_s = model.config.dts.frames_per_group * index.sampling["spacing_s"]
            row |= {"truth": known["answer"], "shown_s": [known["start_s"], known["end_s"]]}
            row["right"] = score_answer(known["kind"], answer.text, known["answer"], group_s)
        answers.append(row)
    return {
        "video": str(video),
        "duration_s": index.end_s,
        "frames": len(index.frame_indices),
        "lost_frames": len(index.lost),
        "load_s": load_s,
        "encoding": dict(index.timings),
        "answers": answers,
    }


def show(report: dict[str, Any]) -> None:
    """Prints answers with evidence, then the table of seconds."""
    print(f"\n{report['video']}: {report['duration_s']:.0f} s, {report['frames']} frames looked at")
    if report["lost_frames"]:
        print(f"{report['lost_frames']} frames cannot be decoded and were left out")
    for answer in report["answers"]:
        spans = ", ".join(f"{start:.0f}-{end:.0f} s ({score:.2f})" for start, end, score in answer["evidence"])
        print(f"\n  {answer['question']}\n    {answer['text']}\n    evidence: {spans}")
        if "truth" in answer:
            verdict = "right" if answer["right"] else "WRONG"
            begin, end = answer["shown_s"]
            print(f"    truth: {answer['truth']} (shown {begin:.0f}-{end:.0f} s): {verdict}")
    first, rest = report["answers"][0]["timings"], [answer["timings"] for answer in report["answers"][1:]]
    print("\n  where the time went                      seconds")
    print(f"  loading the model                      {report['load_s']:9.2f}")
    print(f"  decoding the video                     {report['encoding']['read_s']:9.2f}")
    print(f"  encoding, with compilation             {report['encoding']['encode_s']:9.2f}")
    print(f"  prefill, first question (compiles)     {first['prefill_s']:9.2f}")
    if rest:
        print(f"  prefill, each later question           {sum(t['prefill_s'] for t in rest) / len(rest):9.4f}")
        print(f"  each generated token, later questions  {sum(t['per_token_s'] for t in rest) / len(rest):9.4f}")


if __name__ == "__main__":
    sys.exit(main())
