"""Segments images, videos, cameras and streams: overlays to look at, and files or lines for other tools.

    python runtime/segment.py artifacts/street-lite-fp16.engine photos/ --task semantic --out artifacts/segmented
    python runtime/segment.py artifacts/street-lite-fp16.engine film.mp4 --video overlay.mp4 --ndjson

Into --out go overlays and maps of each picture and one index (runtime/output_files.py). With --video or --ndjson that
folder is written only where it is named. A picture that cannot be read is reported, the others are done, and the exit
code is 2. Ctrl-C and SIGTERM end the sources: files are closed, indexes written, the exit code is 130 or 143.
docs/streams.md has the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import cv2

from mask2edge.runtime.command_line import (
    EXIT_BAD_INPUT,
    InputError,
    command,
    natural_number,
    positive_float,
    positive_number,
    say,
)
from mask2edge.runtime.feed import Feed
from mask2edge.runtime.output_files import OutputFiles
from mask2edge.runtime.pictures import Picture
from mask2edge.runtime.progress_lines import ProgressLines
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segment_entries import entries
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.smoothing import Smoother
from mask2edge.runtime.sources import Source, count_pictures, find_sources, pictures
from mask2edge.runtime.stopping import StopSignals
from mask2edge.runtime.stream import AHEAD, Frame, stream
from mask2edge.runtime.tracking import Tracker
from mask2edge.runtime.video_source import Sampling, VideoSource
from mask2edge.runtime.video_writer import VideoFile

DEFAULT_OUT = Path("artifacts/segmented")


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    video = VideoFile(arguments.video, arguments.codec) if arguments.video else None
    if arguments.out and arguments.out.exists() and not arguments.out.is_dir():
        raise InputError(f"--out: expected a folder or a name for one, got the file {arguments.out}")
    sources = find_sources(arguments.source, sys.stdin)
    if video:
        _refuse_overwriting(video.path, sources)
    has_video = any(isinstance(source, VideoSource) for source in sources)
    if arguments.json:
        _refuse_endless(sources)
    segmenter = Segmenter.load(
        arguments.engine, arguments.object_threshold, arguments.overlap_threshold, arguments.threads, streaming=True
    )
    if arguments.threads:
        cv2.setNumThreads(arguments.threads)
    task = segmenter.check_task(arguments.task)
    if arguments.track and task == "semantic":
        raise InputError("--track: expected --task panoptic or instance, got semantic: its ids are classes")
    if arguments.smooth and task == "instance":
        raise InputError("--smooth: expected --task panoptic or semantic, got instance: its masks overlap")
    out = arguments.out or (None if arguments.ndjson or video else DEFAULT_OUT)
    with StopSignals() as stop, ExitStack() as closers:
        if video:
            closers.enter_context(video)
        files = closers.enter_context(OutputFiles(out, task, segmenter.spec.model.labels)) if out else None
        run = _Run(arguments, task, files, video)
        sampling = Sampling(arguments.every, arguments.max_fps, arguments.drop, arguments.retries)

        def ended() -> bool:
            return stop.received is not None or run.reader_left

        unit = "frames" if has_video else "images"
        progress = ProgressLines(count_pictures(sources, sampling), unit)
        # Frames that wait for the network grow old: none does where the newest wins.
        ahead = 1 if any(isinstance(source, VideoSource) and source.drops(sampling) for source in sources) else AHEAD
        feed = Feed(pictures(sources, sampling, ended), ended)
        with (
            closing(stream(segmenter, feed, task, ahead)) as frames,
            feed,
        ):  # the feed ends first: a thread waits for it
            for frame in frames:
                run.take(frame)
                progress.step(feed.dropped)
        indexes = files.write_indexes() if files else []
    if video and video.frames:
        indexes.append(str(video.path))
    _report(run, arguments, task, out, indexes)
    if run.reader_left:
        return 128 + signal.SIGPIPE
    if stop.received is not None:
        say(f"stopped after {run.count} pictures")
        return 128 + stop.received
    if run.failures:
        if run.count + run.failures > 1:  # the one image's own line has said it all
            kind = "pictures" if has_video else "images"
            say(f"{run.failures} of {run.count + run.failures} {kind} failed")
        return EXIT_BAD_INPUT
    return 0


class _Run:
    """What becomes of each frame."""

    def __init__(
        self, arguments: argparse.Namespace, task: str, files: OutputFiles | None, video: VideoFile | None
    ) -> None:
        self.count = self.failures = 0
        self.done: list[dict[str, Any]] = []  # for --json alone: a stream may have no end
        self.failed: list[dict[str, str]] = []
        self.reader_left = False  # of our stdout
        self._json, self._ndjson = arguments.json, arguments.ndjson
        self._smooth = arguments.smooth
        self._track = arguments.track or (self._smooth and task == "panoptic")  # a vote is between ids that stay
        self._every = arguments.every
        self._files, self._video = files, video
        self._tracker, self._smoother, self._sequence = Tracker(), Smoother(), ""
        self._shown: tuple[str, int] | None = None  # source and index of the video's last picture

    def take(self, frame: Frame) -> None:
        picture = frame.source
        assert isinstance(picture, Picture)
        try:
            about = self._write(frame, picture)
        except InputError as error:
            self.failures += 1
            failure = {"source": picture.source, "error": " ".join(str(error).split())}
            say(f"error: {failure['error']}")
            if self._json:
                self.failed.append(failure)
            if self._ndjson:
                self._print(json.dumps({**_place(picture), "error": failure["error"]}))
            return
        if self._json:
            self.done.append(about)
        elif not self._ndjson and self._files:
            self._print(_line(about))

    def _write(self, frame: Frame, picture: Picture) -> dict[str, Any]:
        """One frame's overlay, map, line and place in the video. Raises the frame's error, or InputError."""
        if frame.error is not None:
            raise frame.error
        assert frame.image is not None
        assert frame.result is not None
        result, start = self._over_time(picture, frame.result), time.perf_counter()
        image_id = picture.image_id or self.count + self.failures + 1
        overlay = result.draw(frame.image) if self._files or self._video else None
        written = {}
        if self._files and overlay is not None:
            written = self._files.write(picture, result, image_id, overlay)
        if self._video and overlay is not None:
            self._video.write(overlay, picture.rate, self._times(picture))
        self.count += 1
        times = {**frame.times, "write_ms": 1000 * (time.perf_counter() - start)}
        height, width = result.size
        about = {**_place(picture), "image_id": image_id, "height": height, "width": width}
        rounded = {key: round(value, 2) for key, value in times.items()}
        if self._ndjson:
            self._print(json.dumps({**about, "segments": entries(result), **rounded}))
        return {**about, "segments": len(result.segments), **written, **rounded}

    def _over_time(self, picture: Picture, result: Segmentation) -> Segmentation:
        """The result with its tracks' ids, and smoothed, where that is asked for."""
        sequence = "" if picture.path else picture.source  # image files are one sequence, each video another
        if sequence != self._sequence:
            self._tracker, self._smoother, self._sequence = Tracker(), Smoother(), sequence
        if self._track:
            result = self._tracker.update(result)
        return self._smoother.update(result) if self._smooth else result

    def _times(self, picture: Picture) -> int:
        """For how many frames of the overlay video: where frames were left out, the next fills their time."""
        times, before = 1, self._shown
        if picture.index is not None:
            if before and before[0] == picture.source:
                times = min(max(1, (picture.index - before[1]) // self._every), 250)
            self._shown = picture.source, picture.index
        return times

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # such as `| head`: what is under way is finished, nothing more is read
            self.reader_left = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refuse_endless(sources: Sequence[Source]) -> None:
    for source in sources:
        if isinstance(source, VideoSource) and source.live:
            raise InputError(
                f"{source.label}: expected a source that ends for --json, which prints one object at the end, got a "
                "live one; use --ndjson, a line for each frame"
            )


def _refuse_overwriting(file: Path, sources: Sequence[Source]) -> None:
    for source in sources:
        name = source.address if isinstance(source, VideoSource) else source
        if file.exists() and os.path.exists(name) and file.samefile(name):
            raise InputError(f"--video: expected another file than the sources, got {file}; choose another name")


def _report(run: _Run, arguments: argparse.Namespace, task: str, out: Path | None, files: list[str]) -> None:
    if arguments.json:
        report = {"engine": str(arguments.engine), "task": task, "out": str(out) if out else None, "files": files}
        print(json.dumps({**report, "images": run.done, "failed": run.failed}))
        return
    for file in files:
        if arguments.ndjson:
            say(f"wrote {file}")
        else:
            print(f"wrote {file}")


def _place(picture: Picture) -> dict[str, Any]:
    """Where a result is from; a frame's number and seconds where there are some."""
    place: dict[str, Any] = {"source": picture.source}
    if picture.index is not None:
        place["frame"] = picture.index
    if picture.seconds is not None:
        place["seconds"] = picture.seconds
    return place


def _line(image: dict[str, Any]) -> str:
    total = image["preprocess_ms"] + image["network_ms"] + image["postprocess_ms"]
    frame = f" {image['frame']}" if "frame" in image else ""
    return (
        f"{image['source']}{frame}  {image['width']}x{image['height']}  {image['segments']} segments  "
        f"{total:.0f} ms (network {image['network_ms']:.0f})  -> {image['overlay']}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Segment images, videos, cameras and streams: overlays, label maps, COCO files, JSON lines.",
        epilog="example: python runtime/segment.py artifacts/street-lite-fp16.engine photos/ --task semantic",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument(
        "source", nargs="+",
        help="image, folder, glob, video, camera's index, address (rtsp://, http://), GStreamer pipeline; -: a list of "
        "files on stdin",
    )  # fmt: skip
    parser.add_argument("--task", choices=TASKS, help="default: panoptic where the model does it, else its first task")
    parser.add_argument("--out", type=Path, help=f"default: {DEFAULT_OUT}; with --video or --ndjson: none")
    parser.add_argument("--video", type=Path, metavar="FILE", help="overlays as a video")
    parser.add_argument("--codec", metavar="FOURCC", help="of --video; default: by the file's suffix")
    lines = parser.add_mutually_exclusive_group()
    lines.add_argument("--json", action="store_true", help="print one JSON object")
    lines.add_argument("--ndjson", action="store_true", help="print one JSON object for each picture, masks as RLE")
    parser.add_argument("--track", action="store_true", help="segments keep their ids from frame to frame")
    parser.add_argument(
        "--smooth", action="store_true",
        help="panoptic, semantic: a pixel changes when two of three frames say so; panoptic ids are kept as by --track",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=positive_number, default=1, metavar="N", help="each Nth frame of videos and streams"
    )
    parser.add_argument(
        "--max-fps", type=positive_float, metavar="F", help="at most F frames of each second of a video or stream"
    )
    parser.add_argument(
        "--drop", action=argparse.BooleanOptionalAction, help="the newest frame wins; default: of live sources alone"
    )
    parser.add_argument(
        "--retries", type=natural_number, default=5, metavar="N",
        help="attempts in a row to open a lost camera or stream again (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, help="0: the backend's choice (default)")
    parser.add_argument("--object-threshold", type=float, help="panoptic: least class score; default: the engine's")
    parser.add_argument("--overlap-threshold", type=float, help="panoptic: least part in view; default: the engine's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
