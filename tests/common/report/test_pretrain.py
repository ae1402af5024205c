import json

import pytest
import yaml
from PIL import Image

from mocodet.common.report.run import report

from .pages import check_page

CONFIG = {
    "METHOD": "moco",
    "MODEL": {"ARCH": "resnet18"},
    "AUGMENTATION": {"CROP_SIZE": 48},
    "SOLVER": {"IMS_PER_BATCH": 64},
    "DATA": {"ROOT": "photos <&>", "SHARDS": ""},
    "SEED": 3,
}
PRINTED = """[11/26 15:22:17] mocodet.pretrain INFO: 80 images of a, 10 iterations per epoch, 40 in total; device cpu
[11/26 15:22:18] mocodet.pretrain WARNING: old keys: queries find <their> key & so on
[11/26 15:22:19] mocodet.pretrain WARNING: old keys: queries find <their> key & so on
"""


def write_run(folder):
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = [{"iteration": 4, "loss_chance": 6.24, "accuracy_chance": 0.002, "loss": 6.0, "accuracy": 0.25, "lr": 0.03}]
    lines += [
        {"iteration": n, "loss": 6 - n / 10, "accuracy": n / 100, "lr": 0.03, "spread": 0.4} for n in range(9, 40, 5)
    ]
    for line, top1 in ((lines[1], 31.25), (lines[-1], 58.5)):
        line["knn_top1"] = top1
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iter')
    (folder / "log.txt").write_text(PRINTED)
    record = {"command": ["mocodet", "pretrain", "DATA.ROOT", "photos <&>"], "versions": {"torch": "2.10", "x": None}}
    (folder / "run.json").write_text(json.dumps(record))
    Image.new("RGB", (60, 40), "red").save(folder / "query.png")
    near = [{"path": str(folder / "query.png"), "class": "cat", "similarity": 0.9}]
    near.append({"path": str(folder / "gone <b>.png"), "class": "a <dog>", "similarity": 0.8})
    query = {"path": str(folder / "query.png"), "class": "cat"}
    (folder / "neighbours").mkdir()
    for iterations, kept in ((10, near[1:]), (40, near)):
        content = {"iterations": iterations, "queries": [{**query, "neighbours": kept}]}
        (folder / "neighbours" / f"iter_{iterations - 1:07}.json").write_text(json.dumps(content))
    return folder


def test_page_of_a_run(tmp_path):
    files = report(write_run(tmp_path / "run"), tmp_path / "out")
    assert files == [tmp_path / "out" / "report.html"]
    page = check_page(files[0].read_text())
    assert "moco, resnet18, crops of 48 pixels, batches of 64: 40 of 40 iterations (4 epochs)." in page.text
    assert page.cells[5:10] == ["Loss", "6.000", "2.100", "2.100", "6.240"]
    assert page.cells[10:15] == ["Accuracy", "25.0 %", "39.0 %", "39.0 %", "0.2 %"]
    assert page.cells[15:20] == ["kNN top-1", "31.2 %", "58.5 %", "58.5 %", "–"]
    titles = [svg["aria-label"] for svg in page.all("svg")]
    assert titles == ["Loss", "Accuracy", "kNN top-1", "Learning rate", "Spread of the vectors"]
    assert page.text.count("old keys: queries find <their> key & so on") == 1
    assert "similarity at epoch 4. Of 2 neighbours, 1 have the same class as their query, compared" in page.text
    assert "with 0 at the first evaluation." in page.text
    assert [image["alt"] for image in page.all("img")] == ["query, cat", "neighbour 1, cat"]
    assert "0.80 a <dog> (gone <b>.png)" in page.text
    assert "1 images no longer exist" in page.text
    assert "mocodet pretrain DATA.ROOT 'photos <&>'" in page.text
    assert "torch 2.10" in page.text
    page = check_page(report(tmp_path / "run", with_images=False)[0].read_text())
    assert page.all("img") == []
    assert "Learning rate" in page.text


def test_page_of_a_run__log_alone(tmp_path):
    folder = write_run(tmp_path / "run")
    for name in ("log.txt", "run.json", "neighbours/iter_0000009.json", "neighbours/iter_0000039.json"):
        (folder / name).unlink()
    page = check_page(report(folder)[0].read_text())
    assert "batches of 64: 40 iterations." in page.text
    assert "Warnings are not shown" in page.text
    assert "Nearest neighbours" not in page.text


def test_report__neither_study_nor_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder .*absent not found; expected the folder of a study"):
        report(tmp_path / "absent")
    (tmp_path / "metrics.json").write_text("")
    with pytest.raises(ValueError, match=r"contains neither a study \(results.json .* nor a pre-training run"):
        report(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.raises(ValueError, match=r"metrics.json contains no training values yet"):
        report(tmp_path)
