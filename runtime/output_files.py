"""The files that a run over many pictures leaves in its folder: overlays, maps, and the indexes that describe them.

    with OutputFiles(out, "panoptic", labels) as files:
        written = files.write(picture, image, result)       # {"overlay": …, "map": …}
        files.write_indexes()

panoptic: panoptic/NAME.png and panoptic.json (COCO panoptic); instance: instances.json (COCO results with RLE) and
images.json (which image each image_id is); semantic: semantic/NAME.png (class ids) and semantic.json.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from mask2edge.runtime import formats
from mask2edge.runtime.index_files import JsonList, write_list, write_object
from mask2edge.runtime.pictures import Picture
from mask2edge.runtime.results import Segmentation
from mask2edge.runtime.spec import Label

LONGEST_JPEG_SIDE = 65500  # pixels


class OutputFiles:
    def __init__(self, out: Path, task: str, labels: tuple[Label, ...]) -> None:
        self.out, self.task, self.labels = out, task, labels
        self._lists = ExitStack()
        self._entries = self._lists.enter_context(JsonList())  # of COCO's annotations or results
        self._images = self._lists.enter_context(JsonList())

    def __enter__(self) -> OutputFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lists.close()

    def write(self, picture: Picture, result: Segmentation, image_id: int, overlay: np.ndarray) -> dict[str, str]:
        """One picture's files; `overlay` uint8 [H, W, 3] BGR. Raises InputError."""
        name = picture.name
        file = self.out / "overlays" / f"{name}{'.jpg' if max(overlay.shape) < LONGEST_JPEG_SIDE else '.png'}"
        formats.write_image(file, overlay)
        written = {"overlay": str(file)}
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
            self._entries.extend(formats.instance_results(result, image_id))
        height, width = result.size
        image = {"id": image_id, "file_name": picture.path.name if picture.path else name}
        frame = {} if picture.index is None else {"source": picture.source, "frame": picture.index}
        self._images.append({**image, "height": height, "width": width, **frame})
        return written

    def write_indexes(self) -> list[str]:
        """The files that describe all pictures together; none where no picture was done."""
        if not len(self._images):
            return []
        about = {"images": self._images, "categories": formats.categories(self.labels)}
        if self.task == "panoptic":
            return [self._object("panoptic.json", {**about, "annotations": self._entries})]
        if self.task == "instance":
            write_list(self.out / "instances.json", self._entries)
            return [str(self.out / "instances.json"), self._object("images.json", about)]
        names = [{"id": label.id, "name": label.name, "color": list(label.color)} for label in self.labels]
        return [self._object("semantic.json", {"images": self._images, "classes": names})]

    def _object(self, name: str, content: dict[str, object]) -> str:
        write_object(self.out / name, content)
        return str(self.out / name)
