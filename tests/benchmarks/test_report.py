"""report.py: one page without a network, every figure traced to its row and command, one file's figures on one line."""

import csv
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mask2edge.benchmarks import loadgen_report, report
from mask2edge.benchmarks.accuracy_rows import COLUMNS
from mask2edge.benchmarks.reporting.commands import command_of
from mask2edge.benchmarks.reporting.matrix import APART, PART, WHOLE, coverage, entries_of, not_run
from mask2edge.benchmarks.reporting.rows import newest, read_results
from mask2edge.benchmarks.results_table import append_row

LATENCY = (
    "date", "commit", "machine", "cpu", "threads", "versions", "peer", "engine", "size", "batch", "runs",
    "network_p50_ms", "total_p50_ms", "preprocess_p50_ms", "postprocess_p50_ms", "memory_peak_mb", "sha256",
)  # fmt: skip
A, B = "a" * 64, "b" * 64
NUMBER = r"\d+(\.\d+)?(e-\d+)?"


class Page(HTMLParser):
    """What the tests look at: ids, links inside and outside, whatever would be loaded, and the tables."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.inside, self.loaded, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        self.ids += [found["id"]] if "id" in found else []
        link = found.get("href") or ""
        self.inside += [link[1:]] if link.startswith("#") else []
        loads = {"img": "src", "script": "src", "link": "href", "iframe": "src", "object": "data", "source": "src"}
        self.loaded += [found.get(loads[tag], tag)] if tag in loads else []


def accuracy_row(sha256=A, precision="fp32", task="semantic", **changes):
    row = dict.fromkeys(COLUMNS, "") | {
        "date": "2026-11-26", "commit": "abc", "machine": "x86_64", "cpu": "AMD EPYC", "versions": "numpy=2.4.6",
        "artifact": f"street-lite-{precision}.engine", "backbone": "efficientnet-lite0", "precision": precision,
        "backend": "onnxruntime", "ops": "custom", "size": "384x480", "sha256": sha256, "bytes": "22342330",
        "task": task, "data": "camvid", "split": "val", "images": "101", "images_in_split": "101", "mIoU": "0.724400",
        "command": f"python benchmarks/accuracy.py artifacts/street-lite-{precision}.engine --task {task} --data D",
    }  # fmt: skip
    return row | changes


def latency_row(sha256=A, precision="fp32", **changes):
    row = dict.fromkeys(LATENCY, "") | {
        "date": "2026-11-26", "commit": "abc", "machine": "x86_64", "cpu": "AMD EPYC", "threads": "2",
        "versions": "onnxruntime=1.32.0 numpy=2.4.6", "engine": f"street-lite-{precision}.engine {precision} custom",
        "size": "384x480", "batch": "1", "runs": "9", "network_p50_ms": "71.5", "total_p50_ms": "75.25",
        "memory_peak_mb": "203.0", "sha256": sha256,
    }  # fmt: skip
    return row | changes


@pytest.fixture
def results(tmp_path):
    """results(accuracy=[rows], latency=[rows]) -> a folder of CSV files."""

    def make(accuracy=(), latency=(), **files):
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        for row in accuracy:
            append_row(folder / "accuracy.csv", COLUMNS, row)
        for row in latency:
            append_row(folder / "latency.csv", LATENCY, row)
        for name, text in files.items():
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")
        return folder

    return make


def page_of(folder, tmp_path, capsys, *flags):
    out = tmp_path / "report.html"
    assert report.main(["--results", str(folder), "--out", str(out), *flags]) == 0
    return out.read_text(encoding="utf-8"), capsys.readouterr().out


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The page of the rows in the repository, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("report")
    flags = ["--out", str(folder / "report.html"), "--markdown", str(folder / "report.md")]
    assert report.main(flags) == 0
    return (folder / "report.html").read_text(encoding="utf-8"), folder


def test_nothing_is_loaded(shipped):
    text, _ = shipped
    page = Page(text)
    assert page.loaded
    assert all(source.startswith("data:image/") for source in page.loaded)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    assert "@import" not in text
    assert "url(" not in text
    policy = next(found["content"] for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_every_link_leads_somewhere_and_every_row_has_its_place(shipped):
    page = Page(shipped[0])
    assert len(page.ids) == len(set(page.ids))
    assert set(page.inside) <= set(page.ids)
    for name, rows in read_results(report.RESULTS).items():
        assert [row.anchor for row in rows if row.anchor not in page.ids] == [], name


def test_every_figure_of_the_tables_is_traced(shipped):
    """A cell with a decimal fraction is a link, but in the rows themselves."""
    body, rows = shipped[0].split('<section id="rows">')
    assert rows
    cells = re.findall(r"<td[^>]*>(.*?)</td>", body, re.S)
    figures = [cell for cell in cells if re.search(r"\d\.\d", re.sub(r"<[^>]*>", "", cell))]
    assert len(figures) > 150
    versions = ("numpy", "@ 2.80GHz", ".engine")  # names, not figures
    untraced = [cell for cell in figures if 'href="#' not in cell and not any(word in cell for word in versions)]
    assert untraced == []


def figures_in(cells):
    """The numbers of a row that a page may show: its cells, the file in megabytes, the time around the network."""
    result = json.loads(cells.get("result") or "{}").values()  # of LoadGen
    numbers = [float(cell) for cell in map(str, (*cells.values(), *result)) if re.fullmatch(NUMBER, cell)]
    total, network = (float(cells.get(name) or 0) for name in ("total_p50_ms", "network_p50_ms"))
    return [*numbers, float(cells.get("bytes") or 0) / 1e6, total - network]


def test_a_traced_figure_is_in_its_row_and_the_row_has_a_command(shipped):
    """What stands in the page, rounded, is a cell of the CSV line that the link names, whatever words are around it."""
    results = read_results(report.RESULTS)
    by_anchor = {row.anchor: row for rows in results.values() for row in rows}
    found = re.findall(r'<a class="figure" href="#([\w-]+)"[^>]*>(.*?)</a>', shipped[0])
    assert len(found) > 300
    for anchor, text in found:
        row = by_anchor[anchor]
        numbers = re.findall(r"\b\d[\d,]*(?:\.\d+)?", text)  # not AP50's
        assert numbers, text
        for number in numbers:
            digits = len(number.partition(".")[2])
            shown = [f"{value:.{digits}f}" for value in figures_in(row.cells)]
            assert number.replace(",", "") in shown, (anchor, text)
        assert command_of(row) or row.get("url"), anchor


def test_a_plotted_point_is_at_the_figures_of_its_file(shipped):
    """Each is said in words in its plot, with the time of the row that it links to and an accuracy of the same file."""
    results = read_results(report.RESULTS)
    points = 0
    for title, described, anchors in re.findall(
        r'<svg class="plot" [^>]*aria-label="(Measured.*?)\. (.*?)">(.*?)</svg>', shipped[0], re.S
    ):
        metric = re.search(r": (\w+) on", title)[1]
        rows = {row.anchor: row for row in results["latency"]}
        links = [rows[anchor] for anchor in re.findall(r'href="#([\w-]+)"', anchors)]
        said = re.findall(rf"([\d.]+) image to masks, ms, {metric} (0\.\d+)", described)
        assert len(said) == len(links) > 0
        for milliseconds, value in said:
            (row,) = (row for row in links if f"{row.number('total_p50_ms'):.4g}" == milliseconds)
            of_file = [one for one in results["accuracy"] if one.get("sha256") == row.get("sha256")]
            assert value in [f"{one.number(metric):.3f}" for one in of_file if one.get(metric)]
            points += 1
    assert points > 3


def test_tables_are_accessible(shipped):
    text, _ = shipped
    tables = re.findall(r"<table>.*?</table>", text, re.S)
    assert len(tables) > 10
    for table in tables:
        assert "<caption" in table
        assert '<th scope="col"' in table
        assert all(
            '<th scope="row">' in row for row in re.findall(r"<tr[^>]*>.*?</tr>", table.split("<tbody>")[1], re.S)
        )
    page = Page(text)
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert all(found.get("aria-label") for tag, found in page.tags if tag == "svg")
    assert ("html", {"lang": "en"}) in page.tags
    for words in ("prefers-color-scheme: dark", "width=device-width"):
        assert words in text


def test_published_figures_say_so_and_have_a_source(shipped):
    text, _ = shipped
    assert text.count("Published, not measured here") >= 3
    for row in read_results(report.RESULTS)["published"]:
        assert row.get("source")
        assert row.get("url").startswith("https://")
        assert 0 < (row.number("value") or 0) < 1
        assert not (row.get("fps") and row.get("latency_ms"))
        assert bool(row.get("hardware")) == bool(row.get("fps") or row.get("latency_ms"))


def test_the_same_rows_give_the_same_page_without_a_path_of_this_machine(shipped, tmp_path):
    text, folder = shipped
    assert report.main(["--out", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text
    for path in (folder, Path.home(), report.ROOT):
        assert str(path) not in text + (folder / "report.md").read_text(encoding="utf-8")


def test_markdown_has_the_rows_and_commands(shipped):
    text = (shipped[1] / "report.md").read_text(encoding="utf-8")
    assert "| mask2edge-fp32 | 0.464 |" in text
    assert "[peers.csv:3](benchmarks/results/peers.csv#L3)" in text
    assert "`python benchmarks/compare_peers.py --backbone r50 --size 512x512 --threads 2 --runs 12 --save`" in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_links_of_a_page_in_the_project_lead_to_its_rows():
    root = report.ROOT
    assert report.address_of(root / "benchmarks/results", root / "docs/report.md") == "../benchmarks/results"
    assert report.address_of(root / "benchmarks/results", Path("/elsewhere/report.md")) == "benchmarks/results"


def test_one_file_has_its_accuracy_and_time_on_one_line(results, tmp_path, capsys):
    folder = results([accuracy_row()], [latency_row()])
    (entry,) = entries_of(read_results(folder))
    assert (entry.state, entry.network_ms, entry.memory_mb, entry.bytes[0]) == (WHOLE, 71.5, 203, 22342330)
    text, _ = page_of(folder, tmp_path, capsys)
    (line,) = [row for row in re.findall(r"<tr>.*?</tr>", text, re.S) if "0.7244" in row and "75.2" in row]
    assert A[:12] in line
    assert "Measured here: mIoU on camvid val, AMD EPYC, 2 threads" in text


def test_memory_is_of_the_newest_run_with_the_engine_alone_and_times_of_the_newest(results):
    in_turns = {"network_p50_ms": "80", "memory_peak_mb": ""}  # the process held other engines as well
    rows = [latency_row(), latency_row(memory_peak_mb="210"), latency_row(**in_turns), latency_row(B, **in_turns)]
    first, other = entries_of(read_results(results([accuracy_row(A), accuracy_row(B)], rows)))
    assert (first.network_ms, first.latency.line, first.memory_mb, first.memory.line) == (80, 4, 210, 3)
    assert (other.network_ms, other.memory_mb, other.memory) == (80, None, None)


def test_an_engine_that_is_named_after_its_backbone_alone_has_random_weights(results):
    expected = {
        "swin-t-512x512-fp32.engine": ("swin-tiny", "random weights"),
        "coco-panoptic-r50-fp32.engine": ("", ""),
        "r50.engine": ("", ""),
    }
    rows = [latency_row(str(number) * 64, engine=f"{name} fp32 custom") for number, name in enumerate(expected)]
    found = entries_of(read_results(results([], rows)))
    assert {entry.artifact: (entry.backbone, entry.weights) for entry in found} == expected


def test_figures_of_different_files_are_never_on_one_line(results):
    """The same name, precision and size, built twice."""
    found = entries_of(read_results(results([accuracy_row(A)], [latency_row(B), latency_row("")])))
    assert sorted(entry.state for entry in found) == ["accuracy", "time", "time"]
    assert all(not (entry.accuracy and entry.latency) for entry in found)


def test_coverage_tells_apart_from_together(results):
    times = [latency_row(B), latency_row("c" * 64, "int8")]
    accuracies = [accuracy_row(A), accuracy_row("c" * 64, "int8"), accuracy_row("d" * 64, "fp16")]
    read = read_results(results(accuracies, times))
    # latency.csv has no backbone: what has no accuracy of the same file is of no known backbone.
    cells = coverage(entries_of(read))
    assert cells["efficientnet-lite0", "onnxruntime", "int8"] == WHOLE
    assert cells["efficientnet-lite0", "onnxruntime", "fp32"] == "accuracy"
    assert cells["efficientnet-lite0", "onnxruntime", "fp16"] == "accuracy"
    assert cells["resnet50", "tensorrt", "int8"] == ""


def test_both_of_different_files_is_called_so(results):
    peers = "backbone,size,contender,network_p50_ms,ratio\nr50,512x512,mask2edge-fp32,600,0.5\n"
    read = read_results(results([accuracy_row(backbone="resnet50")], peers=peers))
    assert coverage(entries_of(read))["resnet50", "onnxruntime", "fp32"] == APART
    assert f"resnet50, fp32, onnxruntime: {APART}." in not_run(read, entries_of(read))


def test_what_was_not_run_follows_from_the_rows(results):
    few = not_run(read := read_results(results([accuracy_row()], [latency_row()])), entries_of(read))
    assert any(line.startswith("tensorrt: none of its 36") and "make gpu-check" in line for line in few)
    assert any(line.startswith("No row of the backbones resnet50") and "efficientnet-lite0" not in line for line in few)
    assert "efficientnet-lite0, int8, onnxruntime: not run." in few
    assert not any("efficientnet-lite0, fp32" in line for line in few)
    assert "No artifact's accuracy in the task panoptic (PQ)." in few
    assert not any("semantic" in line for line in few)
    assert any("aarch64" in line for line in few)
    gpu = accuracy_row(B, backend="tensorrt", machine="NVIDIA Jetson Orin Nano", task="panoptic", PQ="0.5")
    more = not_run(read := read_results(results([gpu], [])), entries_of(read))
    assert not any("none of its" in line or "aarch64" in line or "panoptic" in line for line in more)
    assert "efficientnet-lite0, fp32, tensorrt: an accuracy, no time." in more


def test_the_newest_row_of_a_thing_is_shown(results, tmp_path, capsys):
    folder = results([accuracy_row(), accuracy_row(mIoU="0.731000")], [latency_row()])
    assert [row.get("mIoU") for row in newest(read_results(folder)["accuracy"])] == ["0.731000"]
    text, _ = page_of(folder, tmp_path, capsys)
    body, rows = text.split('<section id="rows">')
    assert "0.7244" not in body
    assert "0.724400" in rows


def test_stages_are_drawn_where_they_are_known(results, tmp_path, capsys):
    stages = latency_row(preprocess_p50_ms="0.9", postprocess_p50_ms="2.85")
    text, _ = page_of(results([], [stages, latency_row(B, "int8")]), tmp_path, capsys)
    part = text.split('<section id="stages">')[1].split("</section>")[0]
    assert ">0.90</a>" in part
    assert ">2.85</a>" in part
    assert "3.8 with before" in part  # 75.25 - 71.5, of the row without stages
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", part)]
    assert sum(widths[:3]) == pytest.approx(100, abs=0.2)


def test_a_part_of_the_split_is_said_to_be_one(results, tmp_path, capsys):
    text, _ = page_of(results([accuracy_row(images="24")]), tmp_path, capsys)
    assert "the first 24 of 101 images" in text


def test_figures_of_a_part_never_look_like_those_of_the_whole(results, tmp_path, capsys):
    """A file that was tried on 24 images, and another that was measured: two plots, and the first counts as a time."""
    part, whole = accuracy_row(images="24", mIoU="0.912300"), accuracy_row(B, "int8")
    folder = results([part, whole], [latency_row(), latency_row(B, "int8")])
    read = read_results(folder)
    assert [(entry.precision, entry.state) for entry in entries_of(read)] == [("fp32", "time"), ("int8", WHOLE)]
    text, _ = page_of(folder, tmp_path, capsys)
    plots = {re.sub("<[^>]*>", "", title) for title in re.findall(r"<figcaption>(Measured.*?)</figcaption>", text)}
    whole_title = "Measured here: mIoU on camvid val, AMD EPYC, 2 threads"
    assert plots == {whole_title, "Measured here: mIoU on camvid val, the first 24 of 101 images, AMD EPYC, 2 threads"}


def test_an_accuracy_of_a_part_is_no_accuracy_of_the_artifact(results):
    read = read_results(results([accuracy_row(images="24")]))
    assert [entry.state for entry in entries_of(read)] == [PART]
    assert coverage(entries_of(read))["efficientnet-lite0", "onnxruntime", "fp32"] == PART
    assert "efficientnet-lite0, fp32, onnxruntime: an accuracy of a part of the images alone." in not_run(
        read, entries_of(read)
    )


def test_what_an_interrupted_run_left_is_not_read(results):
    """The name that whole_file writes under: complete, it would have another."""
    folder = results([accuracy_row()])
    (folder / ".accuracy-x1y2.csv").write_text((folder / "accuracy.csv").read_text(encoding="utf-8")[:-40])
    assert list(read_results(folder)) == ["accuracy"]


def test_a_time_of_another_input_size_says_so(results, tmp_path, capsys):
    """An engine that takes several sizes is timed at one."""
    folder = results([accuracy_row(size="32x32-1024x1024")], [latency_row(size="512x704")])
    text, _ = page_of(folder, tmp_path, capsys)
    body = text.split('<section id="rows">')[0]
    assert body.count("timed at 512x704") == 1
    assert "efficientnet-lite0 512x704 onnxruntime" in body  # the plot's series
    text, _ = page_of(results([accuracy_row(B)], [latency_row(B)]), tmp_path, capsys)
    assert text.count("timed at") == 1


def test_int8_says_how_it_was_calibrated_beside_its_precision(results, tmp_path, capsys):
    """And a newer row that says so takes the place of an older one of the same file that does not."""
    older, newer = accuracy_row(precision="int8"), accuracy_row(precision="int8", calibration="percentile, 32 images")
    folder = results([older, newer], [latency_row(precision="int8")])
    (entry,) = entries_of(read_results(folder))
    assert (entry.calibration, len(entry.accuracy)) == ("percentile, 32 images", 1)
    text, _ = page_of(folder, tmp_path, capsys)
    assert "<td>int8<br>percentile, 32 images</td>" in text


def test_an_accuracy_says_of_how_many_detections_and_of_which_other_cpu_it_is(results, tmp_path, capsys):
    instances = {"task": "instance", "mIoU": "", "AP": "0.500000"}
    many, few = (accuracy_row(sha, **instances, detections=n) for sha, n in ((A, "300"), (B, "100")))
    folder = results([many, few | {"cpu": "Intel(R) Xeon(R) CPU"}], [latency_row(A), latency_row(B, "int8")])
    text, _ = page_of(folder, tmp_path, capsys)
    assert "camvid val, 101 images, 300 detections</td>" in text
    assert "camvid val, 101 images, 100 detections, on Intel Xeon</td>" in text
    for count in (100, 300):  # two AP that are not to be compared
        assert f"Measured here: AP on camvid val, {count} detections, AMD EPYC, 2 threads" in text


def test_default_threads_are_of_so_many_cores(results, tmp_path, capsys):
    folder = results([], [latency_row(threads="default")])
    assert "AMD EPYC, default threads<" in page_of(folder, tmp_path, capsys)[0]
    append_row(folder / "latency.csv", (*LATENCY, "cores"), latency_row(B, threads="default") | {"cores": "8"})
    assert "AMD EPYC, default threads of 8 cores<" in page_of(folder, tmp_path, capsys)[0]


def test_times_of_two_tasks_are_two_lines(results, tmp_path, capsys):
    """Masks of instances take longer than a map of classes."""
    folder = results([accuracy_row()])
    for task, total in (("semantic", "75.25"), ("instance", "81.5")):
        append_row(folder / "latency.csv", (*LATENCY, "task"), latency_row(total_p50_ms=total) | {"task": task})
    found = entries_of(read_results(folder))
    assert [(entry.total_ms, entry.latency.get("task")) for entry in found] == [(75.25, "semantic"), (81.5, "instance")]
    text, _ = page_of(folder, tmp_path, capsys)
    assert "AMD EPYC, 2 threads, instance<" in text


def test_a_name_with_blanks_is_a_name(results):
    (entry,) = entries_of(read_results(results([], [latency_row(engine="my first.engine int8 custom")])))
    assert (entry.artifact, entry.precision, entry.ops) == ("my first.engine", "int8", "custom")


def scenario_row(scenario, verdict, result, **changes):
    row = dict.fromkeys(loadgen_report.COLUMNS, "") | {
        "date": "2026-11-30", "cpu": "AMD EPYC", "threads": "2", "engine": "a.engine fp32 custom", "sha256": A,
        "scenario": scenario, "measures": "end-to-end", "verdict": verdict, "result": json.dumps(result),
        "command": f"python benchmarks/latency.py a.engine --scenario {scenario} --save",
    }  # fmt: skip
    return row | changes


def test_scenarios_have_their_results_and_verdicts(results, tmp_path, capsys):
    """Offline has no latency: its figure is in the result alone."""
    folder = results([], [latency_row()])
    append_row(
        folder / "scenarios.csv", loadgen_report.COLUMNS, scenario_row("Offline", "VALID", {"samples_per_s": 12.345678})
    )
    text, _ = page_of(folder, tmp_path, capsys)
    part = text.split('<section id="load">')[1].split("</section>")[0]
    assert '<a class="figure" href="#scenarios-2" title="scenarios.csv:2">samples per s 12.3457</a>' in part
    server = {"latency_p99_ms": 310.5, "late_queries": 7, "early": None}
    append_row(
        folder / "scenarios.csv", loadgen_report.COLUMNS, scenario_row("Server", "INVALID", server, latency_p50_ms="99")
    )
    text, _ = page_of(folder, tmp_path, capsys)
    part = text.split('<section id="load">')[1].split("</section>")[0]
    for shown in ("<td>INVALID</td>", "late queries 7<", "latency p99 ms 310.5<", ">99.0<"):
        assert shown in part
    assert "early" not in part
    assert "No engine in MLPerf&#x27;s scenarios SingleStream, MultiStream (" in text


def test_accuracies_of_one_file_at_two_sizes_are_two_lines(results):
    """A checkpoint that was letterboxed, and the same at the images' ratio."""
    rows = [accuracy_row(size="512x704"), accuracy_row(size="32x32-1024x1024", mIoU="0.730000")]
    found = entries_of(read_results(results(rows)))
    assert sorted((entry.size, entry.accuracy[0].get("mIoU")) for entry in found) == [
        ("32x32-1024x1024", "0.730000"), ("512x704", "0.724400")
    ]  # fmt: skip
    assert all(len(entry.accuracy) == 1 for entry in found)


def test_text_of_rows_is_no_html(results, tmp_path, capsys):
    nasty = "<script>alert(1)</script>"
    folder = results([accuracy_row(artifact=nasty, data='"><b>', command=nasty)], [latency_row(cpu=nasty)])
    text, _ = page_of(folder, tmp_path, capsys)
    assert "<script" not in text
    assert "<b>" not in text


def test_json(results, tmp_path, capsys):
    _, out = page_of(results([accuracy_row()], [latency_row()]), tmp_path, capsys, "--json")
    found = json.loads(out)
    (entry,) = found["matrix"]
    assert (entry["state"], entry["sha256"], entry["total_ms"], entry["row"]) == (WHOLE, A, 75.25, "latency.csv:2")
    assert entry["accuracy"][0]["mIoU"] == 0.7244
    assert found["rows"] == 2
    assert found["not_run"]


BAD = [
    (["--out", "report.pdf"], {}, "--out: expected a name ending in .html, got report.pdf"),
    (["--markdown", "report.txt"], {}, "--markdown: expected a name ending in .md"),
    (["--results", "nowhere"], {}, "--results: expected a folder of CSV files, got 'nowhere'"),
    ([], {}, "expected CSV files with rows, got none"),
    ([], {"peers": "contender,ratio\nmask2edge-fp32\n"}, "line 2: expected 2 cells"),
    ([], {"peers": "contender,ratio\nmask2edge-fp32,fast\n"}, "peers.csv:2: ratio: expected a number, got 'fast'"),
    ([], {"scenarios": "scenario,result\nServer,fast\n"}, "scenarios.csv:2: result: expected a JSON object, got"),
    ([], {"scenarios": "scenario,result\nServer,[1]\n"}, "scenarios.csv:2: result: expected a JSON object, got"),
]


@pytest.mark.parametrize(("flags", "files", "message"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_one_line_and_exit_2(flags, files, message, results, tmp_path, monkeypatch, capsys):
    folder = results(**files)
    monkeypatch.chdir(tmp_path)
    assert report.main(["--results", str(folder), *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("**/*.html"))


def test_a_report_needs_neither_torch_nor_onnx():
    code = (
        "import sys; from mask2edge.benchmarks import report; "
        "sys.exit(str({'torch', 'onnx', 'matplotlib', 'onnxruntime'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_csv_files_of_the_repository_are_read_as_they_are():
    """The line numbers, against a count by hand."""
    for name, rows in read_results(report.RESULTS).items():
        lines = (report.RESULTS / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        for row in rows:
            assert next(csv.reader([lines[row.line - 1]])) == list(row.cells.values())
