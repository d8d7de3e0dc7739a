"""`vxlpro ask | index | convert | plan`: arguments in, one call down.

Source: ours. Messages for people go to stderr; answers to stdout. Bad arguments and files: a message and exit code 2.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vxlpro_jax import __version__

EXIT_SOME_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"vxlpro {arguments.command}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        hint = "lower --frames-per-batch, --max-frames or --budget, or use --dtype bfloat16"
        print(f"vxlpro {arguments.command}: out of memory; {hint}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vxlpro", description="Ask questions about videos of any length.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{ask,index,convert,plan}")

    ask = commands.add_parser("ask", help="answer a question about one or several videos, pictures or indexes")
    ask.add_argument(
        "videos", nargs="+", metavar="VIDEO", help="video file, picture, folder of images, or a .vxl index"
    )
    ask.add_argument("question", metavar="QUESTION")
    _add_encoding(ask)
    ask.add_argument("--max-new-tokens", type=int, default=128)
    ask.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy")
    ask.add_argument("--top-p", type=float, default=1.0)
    ask.add_argument("--top-k", type=int, default=0)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--keep-rate", type=float, help="keep this share of the visual tokens, by the released rule")
    ask.add_argument("--budget", type=int, help="keep at most so many rows of video, stamps counted")
    ask.add_argument(
        "--context-len", type=int, metavar="ROWS", help="rows that the language model may read (default: as trained)"
    )
    ask.add_argument("--subtitles", metavar="FILE.srt")
    ask.add_argument("--json", action="store_true", help="print one JSON object per answer")
    ask.set_defaults(run=_ask)

    index = commands.add_parser("index", help="encode videos once, for any number of questions")
    index.add_argument("videos", nargs="+", metavar="VIDEO", help="a video, several, or a folder of videos")
    index.add_argument(
        *("-o", "--output"), required=True, metavar="FILE.vxl", help="of several videos the folder of their indexes"
    )
    index.add_argument("--append", action="store_true", help="go on with a complete index whose video has grown")
    index.add_argument("--workers", type=int, default=1, help="videos indexed at the same time (default 1)")
    _add_encoding(index)
    index.set_defaults(run=_index)

    convert = commands.add_parser("convert", help="convert a checkpoint to Orbax or to PyTorch's released layout")
    convert.add_argument("source", nargs="+", metavar="SRC", help="folder or hub id; or two: stock Qwen2.5 and SigLIP")
    convert.add_argument("target", metavar="DST", help="a folder that does not exist")
    convert.add_argument("--to", choices=("orbax", "torch"), default="orbax")
    convert.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="cast; default: keep every bit")
    convert.add_argument("--seed", type=int, default=0, help="decides the parts that stock checkpoints leave open")
    convert.set_defaults(run=_convert)
    _add_plan(commands)
    return parser


def _add_plan(commands: Any) -> None:
    plan = commands.add_parser("plan", help="how much memory and time a video takes on a device, and whether it fits")
    plan.add_argument("--model", default="video_xl_pro_3b", metavar="PRESET", help="default: video_xl_pro_3b")
    plan.add_argument("--device", required=True, help="a100-80gb, h100-80gb, h200, v4, v5e, v5p, v6e")
    plan.add_argument("--frames", required=True, type=int, help="frames looked at")
    plan.add_argument("--keep", type=float, help="a share of the tokens (at most 1), or a number of rows")
    plan.add_argument("--whole", action="store_true", help="everything is read, whatever context the model has")
    plan.add_argument("--frames-per-batch", type=int, default=64, help="frames encoded at once (default 64)")
    plan.add_argument("--max-new-tokens", type=int, default=128)
    plan.add_argument("--host-gib", type=float, default=64.0, help="memory for the index (default 64)")
    plan.add_argument(
        "--efficiency", type=float, default=0.5, help="share of the hardware's limit, for the second column of seconds"
    )
    plan.add_argument(
        "--compile", action="store_true", help="memory from the device's compiler (requirements-aot.txt; minutes)"
    )
    plan.add_argument("--json", action="store_true", help="print one JSON object")
    plan.set_defaults(run=_plan)


def _add_encoding(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="FOLDER|HUB_ID", help="default: the embedded tiny model")
    command.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    command.add_argument(
        *("--attention",), choices=("auto", "xla", "kernel"), default="auto", help="who computes it on a GPU or TPU"
    )
    command.add_argument("--fps", type=float, default=1.0, help="frames looked at per second of video (default 1)")
    command.add_argument("--max-frames", type=int, help="at most so many, then evenly over the whole")
    command.add_argument("--sampling", choices=("fps", "released"), default="fps")
    command.add_argument("--frames-per-batch", type=int, default=64, help="frames encoded at once (default 64)")


def _load(arguments: argparse.Namespace) -> Any:
    from vxlpro_jax.loading import load  # late: parsing and --help need no jax

    context_len = getattr(arguments, "context_len", None)
    return load(arguments.model, arguments.dtype, context_len=context_len, attention=arguments.attention)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("fps", "max_frames", "sampling", "frames_per_batch")
    return {name: getattr(arguments, name) for name in names}


def _encode(model: Any, path: str, arguments: argparse.Namespace, **where: Any) -> Any:
    """The index of a path: loaded if it is one, else made, with a bar on a terminal and a word on what was lost."""
    from vxlpro_jax.infer.video_index import VideoIndex, is_index

    if is_index(path):
        return VideoIndex.load(path)
    with tqdm(desc=f"encoding {Path(path).name}", unit="frame", disable=None, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:
                bar.initial = done  # what was done before, and compiling, says nothing about the rest
            bar.total = total
            bar.update(done - bar.n)

        with warnings.catch_warnings(action="ignore"):  # what was lost is said below
            index = model.index(path, progress=progress, **_options(arguments), **where)
    if index.lost:
        print(f"{path}: {_lost(len(index.lost))}", file=sys.stderr)
    return index


def _lost(count: int) -> str:
    return f"{count} frames cannot be decoded and were left out"


def _refuse_before_loading(arguments: argparse.Namespace) -> None:
    """What is wrong with a question is said before a model is loaded or a video encoded. Raises ValueError, OSError."""
    from vxlpro_jax.infer.answer import check_request
    from vxlpro_jax.infer.token_sampler import Sampling

    for name in (*arguments.videos, *filter(None, [arguments.subtitles])):
        if not Path(name).exists():
            raise FileNotFoundError(f"{name}: no such file")
    Sampling(arguments.temperature, arguments.top_p, arguments.top_k)
    check_request(
        *([arguments.question], len(arguments.videos), arguments.max_new_tokens, arguments.seed),
        *(arguments.keep_rate, arguments.budget, arguments.subtitles),
    )


def _ask(arguments: argparse.Namespace) -> int:
    _refuse_before_loading(arguments)
    model = _load(arguments)
    indexes = [_encode(model, path, arguments) for path in arguments.videos]
    streams = not arguments.json and sys.stdout.isatty()
    answer = model.ask(
        indexes,
        arguments.question,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        top_k=arguments.top_k,
        seed=arguments.seed,
        keep_rate=arguments.keep_rate,
        budget=arguments.budget,
        subtitles=arguments.subtitles,
        on_text=(lambda _, text: print(text, end="", flush=True)) if streams else None,
    )
    if arguments.json:
        print(json.dumps(_answer_record(arguments, indexes, answer)))
        return 0
    print("" if streams else answer.text)
    _print_grounds(arguments.videos, indexes, answer)
    return 0


def _print_grounds(names: Sequence[str], indexes: Sequence[Any], answer: Any) -> None:
    """How closely was looked and where, on stderr. A picture has neither frames nor times."""
    print(f"(kept {answer.num_kept} of {answer.num_visual} visual tokens)", file=sys.stderr)
    for name, index, spacing_s, spans in zip(names, indexes, answer.spacings_s, answer.evidence_by_video, strict=True):
        if index.kind == "picture":
            continue
        video = f"{name}: " if len(indexes) > 1 else ""
        print(f"  {video}{len(index.frame_indices)} frames, one every {spacing_s:.2f} s", file=sys.stderr)
        for span in spans:
            seconds = f"{span.start_s:.1f} to {span.end_s:.1f} s"
            print(f"  {video}evidence: {seconds} (score {span.score:.2f})", file=sys.stderr)


def _answer_record(arguments: argparse.Namespace, indexes: Sequence[Any], answer: Any) -> dict[str, Any]:
    encoding = {name: sum(index.timings.get(name, 0.0) for index in indexes) for name in ("read_s", "encode_s")}
    return {
        "videos": arguments.videos,
        "question": arguments.question,
        "text": answer.text,
        "evidence": [
            {"video": video, **span._asdict()}
            for video, spans in zip(arguments.videos, answer.evidence_by_video, strict=True)
            for span in spans
        ],
        "num_tokens": answer.num_tokens,
        "num_kept": answer.num_kept,
        "num_visual": answer.num_visual,
        "frames": [len(index.frame_indices) for index in indexes],
        "lost_frames": [list(index.lost) for index in indexes],
        "sampling": [dict(index.sampling) for index in indexes],
        "timings": {**encoding, **answer.timings},
    }


def _index(arguments: argparse.Namespace) -> int:
    from vxlpro_jax.infer.index_list import find_jobs, is_folder_of_videos
    from vxlpro_jax.infer.index_writer import check_output
    from vxlpro_jax.infer.video_index import is_index

    output = Path(arguments.output)
    if arguments.workers < 1:
        raise ValueError(f"--workers {arguments.workers}: 1 or more is accepted")
    for video in arguments.videos:
        if not Path(video).exists():
            raise FileNotFoundError(f"{video}: no such file")
        if is_index(video):
            raise ValueError(f"{video} is an index already: name the video")
    sources = [Path(video) for video in arguments.videos]
    if len(sources) > 1 or is_folder_of_videos(sources[0]):
        if is_index(output) or (output.exists() and not output.is_dir()):
            raise FileExistsError(f"{output} exists and is no folder of indexes: choose another name")
        return _index_all(_load(arguments), find_jobs(sources, output), arguments)
    check_output(output, arguments.append)
    model = _load(arguments)
    try:
        index = _encode(model, arguments.videos[0], arguments, output=output, append=arguments.append)
    except KeyboardInterrupt:
        _say_where_it_stopped(output, is_index(output))
        raise
    print(f"{output}: {len(index.frame_indices)} frames in {len(index.tokens)} groups", file=sys.stderr)
    return 0


def _say_where_it_stopped(output: Path, goes_on: bool) -> None:
    what = f"{output} is unfinished, and the same command goes on with it" if goes_on else "nothing was kept"
    after_key = "\n" if sys.stderr.isatty() else ""  # the terminal shows ^C
    print(f"{after_key}vxlpro index: stopped; {what}", file=sys.stderr)


def _index_all(model: Any, jobs: Sequence[Any], arguments: argparse.Namespace) -> int:
    """Every video into an index of its own; a table of what failed, and exit code 1 if anything did."""
    from vxlpro_jax.infer.index_list import index_all
    from vxlpro_jax.infer.index_writer import is_done
    from vxlpro_jax.infer.video_index import describe_source

    options = _options(arguments)
    sampling = {"rule": options["sampling"], "fps": options["fps"], "max_frames": options["max_frames"]}

    def index_one(job: Any, progress: Any) -> Any:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        return model.index(job.source, output=job.target, append=arguments.append, progress=progress, **options)

    failed, open_jobs = [], []
    for job in jobs:
        try:
            if arguments.append or not is_done(job.target, model.fingerprint, describe_source(job.source), sampling):
                open_jobs.append(job)
        except (ValueError, OSError) as error:
            failed.append(f"{job.source}: {error}")
    num_done = len(jobs) - len(open_jobs) - len(failed)
    bytes_of = {job: job.source.stat().st_size for job in open_jobs}
    done_bytes = dict.fromkeys(open_jobs, 0)
    with tqdm(total=sum(bytes_of.values()), unit="B", unit_scale=True, disable=None, leave=False) as bar:

        def on_share(job: Any, share: float) -> None:
            with bar.get_lock():
                done_bytes[job] = round(share * bytes_of[job])
                bar.n = sum(done_bytes.values())
                bar.refresh(nolock=True)

        try:
            with warnings.catch_warnings(action="ignore"):
                for outcome in index_all(open_jobs, index_one, arguments.workers, on_share):
                    if outcome.reason:
                        failed.append(f"{outcome.job.source}: {outcome.reason}")
                    elif outcome.num_lost:
                        bar.write(f"{outcome.job.source}: {_lost(outcome.num_lost)}", file=sys.stderr)
        except KeyboardInterrupt:
            bar.close()
            _say_where_it_stopped(Path(arguments.output), True)
            raise
    counts = f"{len(jobs) - num_done - len(failed)} videos indexed, {num_done} were done, {len(failed)} failed"
    print("\n".join([*failed, f"{arguments.output}: {counts}"]), file=sys.stderr)
    return EXIT_SOME_FAILED if failed else 0


def _convert(arguments: argparse.Namespace) -> int:
    from vxlpro_jax.convert import convert

    source = arguments.source[0] if len(arguments.source) == 1 else arguments.source
    target = convert(source, arguments.target, arguments.to, seed=arguments.seed, dtype=arguments.dtype)
    print(target)
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from vxlpro_jax.parallel.devices import device_named
    from vxlpro_jax.planning.plan import Work, check_work, make_plan, model_named, record
    from vxlpro_jax.planning.plan_text import told

    work = Work(
        model=model_named(arguments.model),
        device=device_named(arguments.device),
        num_frames=arguments.frames,
        keep=arguments.keep,
        whole=arguments.whole,
        frames_per_batch=arguments.frames_per_batch,
        max_new_tokens=arguments.max_new_tokens,
        host_bytes=arguments.host_gib * 2**30,
    )
    check_work(work, arguments.efficiency)
    compiled = None
    if arguments.compile:
        from vxlpro_jax.planning.compiled import compiled_parts

        compiled = compiled_parts(work, partial(print, file=sys.stderr))
    plan = make_plan(work, compiled)
    print(json.dumps(record(plan, arguments.efficiency)) if arguments.json else told(plan, arguments.efficiency))
    return 0


if __name__ == "__main__":
    sys.exit(main())
