"""What the names on a command line stand for: images, videos, cameras, streams; and their pictures, one after another.

    sources = find_sources(["photos/", "film.mp4", "0", "rtsp://camera/1"])
    for picture in pictures(sources, Sampling(every=5)):
        picture.name, picture.read()

`-` is a list of files on stdin, one a line.
"""

from __future__ import annotations

import glob
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, TypeAlias

from mask2edge.runtime.command_line import InputError
from mask2edge.runtime.images import VIDEO_SUFFIXES, find_images
from mask2edge.runtime.pictures import Picture
from mask2edge.runtime.video_source import Sampling, VideoSource, is_device

Source: TypeAlias = Path | VideoSource
STDIN = "-"


def find_sources(names: Sequence[str], stdin: TextIO | None = None) -> list[Source]:
    """Each once, in the order named; a folder or a glob stands for its images or, without any, its videos.

    Videos, cameras and streams are opened, to know that they are there. Raises InputError where a name stands for
    nothing, or cannot be opened.
    """
    given: list[str] = []
    for name in names:
        given += _names_on(stdin) if name == STDIN else [name]
    found: dict[str, Source] = {}
    for name in given:
        for source in _sources_of(name):
            found.setdefault(source.address if isinstance(source, VideoSource) else str(source), source)
    for source in found.values():
        if isinstance(source, VideoSource):
            source.probe()
    return list(found.values())


def pictures(
    sources: Sequence[Source], sampling: Sampling | None = None, ended: Callable[[], bool] = lambda: False
) -> Iterator[Picture]:
    """Of all sources in order; a frame's name is its video's with the number of the frame."""
    names = output_names(sources)
    images = [source for source in sources if isinstance(source, Path)]
    ids = image_ids(images) if len(images) == len(sources) else {}
    for source, name in zip(sources, names, strict=True):
        if isinstance(source, Path):
            yield Picture(str(source), name, path=source, image_id=ids.get(source))
        else:
            try:
                yield from source.frames(sampling or Sampling(), name, ended)
            except InputError as error:  # it was there when it was probed
                yield Picture(source.label, name, error=error)


def count_pictures(sources: Sequence[Source], sampling: Sampling) -> int | None:
    """How many there will be, by the videos' headers; None where nobody knows, as where frames are dropped."""
    total = 0
    for source in sources:
        if isinstance(source, Path):
            total += 1
        elif source.drops(sampling) or source.live or not source.count:
            return None
        else:
            wanted = -(-source.count // sampling.every)
            most = sampling.most_per_second
            total += min(wanted, math.ceil(source.count / source.rate * most)) if most else wanted
    return total


def image_ids(paths: Sequence[Path]) -> dict[Path, int]:
    """COCO names its files by image id: 000000000139.jpg is 139. Other names are numbered from 1."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return {path: int(path.stem) for path in paths}
    return {path: number for number, path in enumerate(paths, start=1)}


def output_names(sources: Sequence[Source]) -> list[str]:
    """Each source's stem, made different from the others' where two folders or formats share one, and from the names of
    a video's frames."""
    taken: dict[str, None] = {}  # in order
    frames: list[re.Pattern[str]] = []
    for source in sources:
        name, number = source.stem, 1
        while True:
            own = re.compile(re.escape(name) + r"-\d{6,}") if isinstance(source, VideoSource) else None
            if not (
                name in taken
                or any(of_a_video.fullmatch(name) for of_a_video in frames)
                or (own and any(own.fullmatch(other) for other in taken))
            ):
                break
            number += 1
            name = f"{source.stem}-{number}"
        taken[name] = None
        if own:
            frames.append(own)
    return list(taken)


def _sources_of(name: str) -> list[Source]:
    # os.path's questions are answered whatever the name is; an address may be longer than a file's name can be.
    if " ! " in name or "://" in name or is_device(name) or (name.isdecimal() and not os.path.exists(name)):
        return [VideoSource(name)]
    if os.path.isfile(name):
        return [VideoSource(name)] if _is_video_name(name) else list(find_images([name]))
    try:
        return list(find_images([name]))
    except InputError:
        if videos := [file for file in _files_behind(name) if _is_video_name(file)]:
            return [VideoSource(file) for file in videos]
        raise


def _files_behind(name: str) -> list[str]:
    """Of a folder or a glob, in order."""
    if os.path.isdir(name):
        found = [os.path.join(name, file) for file in os.listdir(name) if not file.startswith(".")]
    else:
        found = glob.glob(name, recursive=True)
    return sorted(file for file in found if os.path.isfile(file))


def _is_video_name(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def _names_on(stdin: TextIO | None) -> list[str]:
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="surrogateescape")  # as in arguments: a file's name need not be UTF-8
    names = [line.rstrip("\r\n") for line in stdin or ()]
    names = [name for name in names if name.strip()]
    if not names:
        raise InputError("-: expected a list of files on stdin, one a line, got none")
    return names
