"""The live page in a headless Chromium: what a person does there, and what they see."""

import re
import shutil
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from serving import encoded, running, write_video

from mask2edge.runtime.live_source import NewestFrame

pytest.importorskip("onnxruntime")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page's tests drive a browser: pip install playwright"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
expect = playwright.expect
expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_page(browser):
    """open_page(server, **of the browser's context) -> the page, once it knows the engine. No script may fail."""
    contexts, errors = [], []

    def open_one(server, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if "Policy" in message.text else None)
        page.goto(server.url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert errors == []


def choose(page, data: bytes, kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": "picture", "mimeType": kind, "buffer": data})


def names(page) -> list[str]:
    return page.locator("#segments .name").all_inner_texts()


def pixel(page, canvas: str, x: float, y: float) -> list[int]:
    """RGBA of a canvas, at a part of its width and height."""
    return page.locator(canvas).evaluate(
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData(canvas.width * x, canvas.height * y, 1, 1).data]",
        [x, y],
    )


def as_milliseconds(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"ms": 1, "s": 1000}[unit]


def test_an_image_is_chosen_looked_at_and_asked_about_again(segmenter, picture, open_page):
    with running(segmenter) as server:
        page = open_page(server)
        expect(page.locator("#engine")).to_have_text("toy · onnxruntime · fp32")
        expect(page.locator("#invitation")).to_be_visible()
        expect(page.locator("#live")).to_be_hidden()
        choose(page, encoded(picture))
        expect(page.locator("#count")).to_have_text("3")
        assert names(page) == ["ball", "sky", "snow"]
        assert page.locator("#segments .area").all_inner_texts() == ["50.0 %", "25.0 %", "25.0 %"]
        expect(page.locator("#figures")).to_contain_text("of 1,")
        # The legend's parts are the whole that the page saw, as far as it rounds.
        shown = [text for text in page.locator("#legend b").all_inner_texts() if text != "–"]
        assert len(shown) == 7
        whole = page.locator("#figures").inner_text().split(" last")[0]
        assert sum(map(as_milliseconds, shown)) == pytest.approx(as_milliseconds(whole), abs=15)

        # The masks lie where the colours are: each canvas pixel has its segment's colour.
        result = segmenter(picture)
        from mask2edge.runtime.drawing import segment_color

        for (x, y), segment in zip([(0.25, 0.5), (0.75, 0.25), (0.75, 0.75)], result.segments, strict=True):
            assert pixel(page, "#masks", x, y) == [*segment_color(result, segment), 255]
        assert pixel(page, "#picture", 0.25, 0.5)[:3] == [255, 0, 0]

        # Under the pointer, and with the keyboard: the segment and its line belong together.
        box = page.locator("#picture").bounding_box()
        page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
        expect(page.locator("#tip")).to_have_text(re.compile(r"sky\s+1\.00"))
        expect(page.locator("#segments .chosen .name")).to_have_text("sky")
        assert pixel(page, "#masks", 0.25, 0.5)[3] < 255
        page.mouse.move(0, 0)
        page.locator("#segments button").first.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        expect(page.locator("#segments .chosen .name")).to_have_text("snow")

        page.keyboard.press("2")  # the second task
        expect(page.locator("[name=task]:checked")).to_have_value("instance")
        sure = [segment.label for segment in segmenter(picture, "instance").segments if segment.score >= 0.5]
        expect(page.locator("#count")).to_have_text(str(len(sure)))
        assert sorted(names(page)) == sorted(sure)
        page.get_by_role("radio", name="semantic").check()
        expect(page.locator("#figures")).to_contain_text("of 3,")
        expect(page.locator("#count")).to_have_text(str(len(segmenter(picture, "semantic").segments)))
        page.get_by_role("radio", name="panoptic").check()
        page.locator("#object-threshold").fill("100")
        expect(page.locator("#nothing")).to_be_visible()

        page.keyboard.press("s")
        expect(page.locator("#plain")).to_be_visible()
        page.locator("#opacity").fill("20")
        assert page.locator("#masks").evaluate("canvas => canvas.style.opacity") == "0.2"


def test_errors_are_shown_and_go_with_the_next_good_image(segmenter, picture, open_page):
    with running(segmenter, bytes=50_000) as server:
        page = open_page(server)
        expect(page.locator("#tasks label")).to_have_count(3)
        choose(page, b"no picture at all", "text/plain")
        expect(page.get_by_role("alert")).to_have_text("Body: expected a JPEG, PNG, WebP or BMP image, got a text file")
        choose(page, bytes(60_000))
        expect(page.get_by_role("alert")).to_contain_text("this server takes up to")
        choose(page, encoded(picture))
        expect(page.locator("#count")).to_have_text("3")
        expect(page.locator("#error")).to_be_hidden()
        choose(page, b"no picture either", "text/plain")
        expect(page.get_by_role("alert")).to_contain_text("got a text file")
        page.get_by_role("radio", name="semantic").check()  # of the picture that is still there
        expect(page.locator("#error")).to_be_hidden()
        expect(page.locator("#figures")).to_contain_text("of 2,")


def test_a_token_is_asked_for_and_kept(segmenter, picture, open_page):
    with running(segmenter, token="s3cret") as server:
        page = open_page(server)
        for token in ("wrong", "s3cret"):
            expect(page.locator("#token-dialog")).to_be_visible()
            page.fill("#token", token)
            page.keyboard.press("Enter")
            page.wait_for_timeout(300)
        expect(page.locator("#tasks label")).to_have_count(3)
        page.reload()
        choose(page, encoded(picture))
        expect(page.locator("#count")).to_have_text("3")


def test_the_device_is_watched_until_an_image_is_chosen(segmenter, picture, open_page, tmp_path):
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    video = write_video(tmp_path / "clip.avi", [picture] * 5 + [mirrored] * 5)
    with NewestFrame(str(video)) as source, running(segmenter, source=source) as server:
        page = open_page(server)
        expect(page.locator("#state")).to_contain_text("live · frame")
        expect(page.locator("#live")).to_have_attribute("aria-pressed", "true")
        first = page.locator("#state").inner_text()
        expect(page.locator("#state")).not_to_have_text(first)
        expect(page.locator("#figures")).to_contain_text(re.compile(r"of [4-9]|of \d\d"))
        page.keyboard.press("3")
        expect(page.locator("[name=task]:checked")).to_have_value("semantic")
        choose(page, encoded(cv2.resize(picture, (48, 32), interpolation=cv2.INTER_NEAREST)))
        expect(page.locator("#state")).to_have_text("48 × 32")
        expect(page.locator("#live")).to_have_attribute("aria-pressed", "false")
        page.wait_for_timeout(300)
        expect(page.locator("#state")).to_have_text("48 × 32")
        page.keyboard.press("l")
        expect(page.locator("#state")).to_contain_text("live · frame")


def test_a_phone_sees_it_without_scrolling_sideways(segmenter, picture, open_page):
    with running(segmenter) as server:
        page = open_page(server, viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True)
        background = page.locator("html").evaluate("page => getComputedStyle(page).backgroundColor")
        assert max(map(int, re.findall(r"\d+", background))) < 64  # dark, as the device is set
        choose(page, encoded(picture))
        expect(page.locator("#count")).to_have_text("3")
        for view in ("Overlay", "Side by side"):
            page.get_by_role("radio", name=view).check()
            assert page.locator("html").evaluate("page => page.scrollWidth <= innerWidth")
