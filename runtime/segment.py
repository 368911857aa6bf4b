"""Segments images, folders of them and globs: overlays to look at, and files for other tools.

    python runtime/segment.py artifacts/street-lite-fp16.engine photos/ --task semantic --out artifacts/segmented

Into --out go overlays/NAME.jpg and, panoptic: panoptic/NAME.png and panoptic.json (COCO panoptic); instance:
instances.json (COCO results with RLE) and images.json (which image each image_id is); semantic: semantic/NAME.png
(class ids) and semantic.json. A file that is no image is reported, the others are done, and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2

from mask2edge.runtime import formats
from mask2edge.runtime.command_line import EXIT_BAD_INPUT, InputError, command, say, whole_file
from mask2edge.runtime.images import find_images
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.segmenter import TASKS, Segmenter
from mask2edge.runtime.stream import Frame, stream


@command
def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    paths = find_images(arguments.source)
    segmenter = Segmenter.load(
        arguments.engine, arguments.object_threshold, arguments.overlap_threshold, arguments.threads
    )
    if arguments.threads:
        cv2.setNumThreads(arguments.threads)
    task = segmenter.check_task(arguments.task)
    run = _Run(segmenter, task, arguments.out, _image_ids(paths))
    for frame, path, name in zip(stream(segmenter, paths, task), paths, _output_names(paths), strict=True):
        try:
            run.write(frame, path, name)
        except InputError as error:
            run.failed.append({"source": str(path), "error": " ".join(str(error).split())})
            say(f"error: {run.failed[-1]['error']}")
        else:
            if not arguments.json:
                print(_line(run.done[-1]), flush=True)
    files = run.write_indexes()
    if arguments.json:
        report = {"engine": str(arguments.engine), "task": task, "out": str(arguments.out), "files": files}
        print(json.dumps({**report, "images": run.done, "failed": run.failed}))
    else:
        for file in files:
            print(f"wrote {file}")
    if run.failed:
        if len(paths) > 1:  # the one image's own line has said it all
            say(f"{len(run.failed)} of {len(paths)} images failed")
        return EXIT_BAD_INPUT
    return 0


class _Run:
    """One engine over many images; gathers what the files for all images hold."""

    def __init__(self, segmenter: Segmenter, task: str, out: Path, image_ids: dict[Path, int]) -> None:
        self.segmenter, self.task, self.out, self.image_ids = segmenter, task, out, image_ids
        self.done: list[dict[str, Any]] = []
        self.failed: list[dict[str, str]] = []
        self._entries: list[dict[str, Any]] = []  # of COCO's annotations or results
        self._images: list[dict[str, Any]] = []

    def write(self, frame: Frame, path: Path, name: str) -> None:
        """One image: its overlay and its map. Raises the frame's error, or InputError."""
        if frame.error is not None:
            raise frame.error
        assert frame.image is not None
        assert frame.result is not None
        image, result, start = frame.image, frame.result, time.perf_counter()
        written = {"overlay": str(self._write_overlay(name, image, result))}
        image_id = self.image_ids[path]
        if self.task == "panoptic":
            file = self.out / "panoptic" / f"{name}.png"
            formats.write_image(file, formats.panoptic_png(result)[:, :, ::-1])
            self._entries.append(formats.panoptic_annotation(result, image_id, file.name))
            written["map"] = str(file)
        elif self.task == "semantic":
            file = self.out / "semantic" / f"{name}.png"
            formats.write_image(file, formats.semantic_png(result))
            written["map"] = str(file)
        else:
            self._entries += formats.instance_results(result, image_id)
        times = {**frame.times, "write_ms": 1000 * (time.perf_counter() - start)}
        height, width = result.size
        self._images.append({"id": image_id, "file_name": path.name, "height": height, "width": width})
        sizes = {"image_id": image_id, "height": height, "width": width, "segments": len(result.segments)}
        self.done.append(
            {"source": str(path), **sizes, **written, **{key: round(value, 2) for key, value in times.items()}}
        )

    def write_indexes(self) -> list[str]:
        """The files that describe all images together; none where no image was done."""
        if not self._images:
            return []
        labels = self.segmenter.spec.model.labels
        about = {"images": self._images, "categories": formats.categories(labels)}
        if self.task == "panoptic":
            contents: dict[str, Any] = {"panoptic.json": {**about, "annotations": self._entries}}
        elif self.task == "instance":
            contents = {"instances.json": self._entries, "images.json": about}
        else:
            names = [{"id": label.id, "name": label.name, "color": list(label.color)} for label in labels]
            contents = {"semantic.json": {"images": self._images, "classes": names}}
        for file, content in contents.items():
            with whole_file(self.out / file) as temporary:
                temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")
        return [str(self.out / file) for file in contents]

    def _write_overlay(self, name: str, image: Any, result: Segmentation) -> Path:
        # JPEG ends at 65,500 pixels a side.
        file = self.out / "overlays" / f"{name}{'.jpg' if max(image.shape) < 65500 else '.png'}"
        formats.write_image(file, result.draw(image))
        return file


def _image_ids(paths: Sequence[Path]) -> dict[Path, int]:
    """COCO names its files by image id: 000000000139.jpg is 139. Other names are numbered from 1."""
    stems = [path.stem for path in paths]
    if all(stem.isascii() and stem.isdecimal() for stem in stems) and len({int(stem) for stem in stems}) == len(stems):
        return {path: int(path.stem) for path in paths}
    return {path: number for number, path in enumerate(paths, start=1)}


def _output_names(paths: Sequence[Path]) -> list[str]:
    """Each file's stem, made different from the others' where two folders or formats share one."""
    taken: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name)
        names.append(name)
    return names


def _line(image: dict[str, Any]) -> str:
    total = image["preprocess_ms"] + image["network_ms"] + image["postprocess_ms"]
    return (
        f"{image['source']}  {image['width']}x{image['height']}  {image['segments']} segments  "
        f"{total:.0f} ms (network {image['network_ms']:.0f})  -> {image['overlay']}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Segment images with an engine: overlays, label maps, COCO files.",
        epilog="example: python runtime/segment.py artifacts/street-lite-fp16.engine photos/ --task semantic",
    )
    parser.add_argument("engine", type=Path, help="engine folder, as export/build_engine.py makes it")
    parser.add_argument("source", nargs="+", help="image, folder or glob")
    parser.add_argument("--task", choices=TASKS, help="default: panoptic where the model does it, else its first task")
    parser.add_argument("--out", type=Path, default=Path("artifacts/segmented"), help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--threads", type=int, help="0: the backend's choice (default)")
    parser.add_argument("--object-threshold", type=float, help="panoptic: least class score; default: the engine's")
    parser.add_argument("--overlap-threshold", type=float, help="panoptic: least part in view; default: the engine's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
