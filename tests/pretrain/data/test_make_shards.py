import itertools
import json
import os
import signal
import tarfile
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mocodet.common.commands.shards import parse_size
from mocodet.common.locks import claim
from mocodet.common.progress import progress
from mocodet.pretrain.data import make_shards as make_shards_module
from mocodet.pretrain.data.make_shards import make_index, make_shards
from mocodet.pretrain.data.shards import ShardIndex, ShardSampler
from tests.commands import shards as run_shards


@pytest.fixture
def folder(tmp_path) -> Path:
    """Thirty images of two classes and several depths, sizes and formats; two files are the same."""
    generator = np.random.default_rng(0)
    root = tmp_path / "images"
    for number in range(30):
        name = (f"cat/{number}.a.jpg", f"dog/deep/er/{number}.PNG", f"dog/{number} é.jpeg")[number % 3]
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        side = 20 + 2 * number
        image = Image.fromarray(generator.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8))
        image.save(root / name)
    (root / "cat" / "copy.jpg").write_bytes((root / "cat" / "0.a.jpg").read_bytes())
    (root / "notes.txt").write_text("no image")
    return root


def members(shards: Path) -> list[dict[str, bytes]]:
    """Return the members of each shard, by name, in their order, read without webdataset."""
    found = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as archive:
            found.append({member.name: archive.extractfile(member).read() for member in archive})
    return found


def image_bytes(shards: Path) -> list[bytes]:
    return [data for shard in members(shards) for name, data in shard.items() if not name.endswith(".json")]


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("workers", [1, 3])
def test_make_shards__every_byte_of_every_image_once(folder, tmp_path, workers):
    output = tmp_path / "shards"
    summary = make_shards(folder, output, images_per_shard=7, workers=workers)
    assert Counter(image_bytes(output)) == Counter(files(folder).values())
    assert (summary.images, summary.shards, summary.passed_over) == (31, 5, 1)
    assert summary.bytes == sum(map(len, files(folder).values()))
    index = ShardIndex(str(output / "index.json"))
    assert index.images.tolist() == [7, 7, 7, 7, 3]
    assert index.names == [path.name for path in sorted(output.glob("*.tar"))]
    assert index.bytes == summary.bytes


def test_make_shards__says_where_each_image_came_from(folder, tmp_path):
    make_shards(folder, tmp_path / "shards")
    (shard,) = members(tmp_path / "shards")
    expected = files(folder)
    sources = {name.removesuffix(".json"): json.loads(data)["path"] for name, data in shard.items() if "json" in name}
    assert sorted(sources.values()) == sorted(expected)
    for name, data in shard.items():
        key, _, extension = name.partition(".")
        if extension != "json":
            assert data == expected[sources[key]]
            assert sources[key].lower().endswith(extension)


def test_make_shards__order(folder, tmp_path):
    def order(name, **options):
        make_shards(folder, tmp_path / name, images_per_shard=10, **options)
        return image_bytes(tmp_path / name)

    by_path = [files(folder)[name] for name in sorted(files(folder))]
    assert order("sorted", shuffle=False) == by_path
    shuffled = order("shuffled")
    assert shuffled == order("again") != by_path
    assert shuffled != order("other", seed=1)
    for path in sorted((tmp_path / "shuffled").iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), "the same archive, to the byte"


def test_make_shards__largest_size(folder, tmp_path):
    sizes = [len(data) for data in files(folder).values()]
    limit = sorted(sizes)[-3]  # two images are larger than a shard may be
    make_shards(folder, tmp_path / "shards", max_size=limit)
    found = [
        [len(data) for name, data in shard.items() if "json" not in name] for shard in members(tmp_path / "shards")
    ]
    assert sum(map(len, found)) == 31
    assert sum(sum(shard) > limit for shard in found) == 2
    assert all(len(shard) == 1 for shard in found if sum(shard) > limit)
    for shard, following in pairwise(found):
        assert sum(shard) + following[0] > limit, "a shard is closed only when the next image does not fit"


def test_make_shards__resize(folder, tmp_path):
    make_shards(folder, tmp_path / "shards", resize=40, shuffle=False)
    (shard,) = members(tmp_path / "shards")
    (tmp_path / "member").mkdir()
    shrunk = 0
    for name, data in shard.items():
        if name.endswith(".json"):
            continue
        source = folder / json.loads(shard[name.partition(".")[0] + ".json"])["path"]
        path = tmp_path / "member" / name
        path.write_bytes(data)
        original, stored = Image.open(source), Image.open(path)
        if min(original.size) <= 40:
            assert data == source.read_bytes(), "no image is made larger"
            continue
        shrunk += 1
        assert stored.size == (80, 40)
        assert stored.format == "JPEG"
        assert name.endswith(".jpg")
        # The first entry of the luminance table of the JPEG standard, 16, at quality 95.
        assert stored.quantization[0][0] == 2
        # Noise, in which a wrong image or orientation would show as no correlation at all.
        expected = np.asarray(original.convert("L").resize((80, 40), Image.Resampling.BICUBIC), dtype=float)
        assert np.corrcoef(expected.ravel(), np.asarray(stored.convert("L"), dtype=float).ravel())[0, 1] > 0.95
    assert shrunk == 19


def test_make_shards__damaged_image_is_refused_and_whole_shards_stay(folder, tmp_path):
    (folder / "dog" / "bad.jpg").write_bytes((folder / "cat" / "0.a.jpg").read_bytes()[:200])
    refusal = r"bad\.jpg cannot be read as an image \(.*omit all such images with --skip-damaged"
    with pytest.raises(ValueError, match=f"{refusal}$"):
        make_shards(folder, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=rf"{refusal}\. \d shards in .* are complete; run the same command again"):
        make_shards(folder, tmp_path / "there", images_per_shard=3)
    assert not list((tmp_path / "there").glob(".*"))
    found = make_shards(folder, tmp_path / "there", images_per_shard=3, skip_damaged=True)
    assert found == make_shards(folder, tmp_path / "shards", images_per_shard=3, skip_damaged=True)
    assert contents(tmp_path / "there") == contents(tmp_path / "shards")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_at(image: int, *args: object, **options: object) -> None:
    """Call `make_shards` in a process that is killed when it loads an image of the given number."""
    if child := os.fork():
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        return
    load, loaded = make_shards_module._load, itertools.count()

    def load_or_die(*args: object) -> tuple[str, bytes]:
        if next(loaded) == image:
            os.kill(os.getpid(), signal.SIGKILL)
        return load(*args)

    try:
        make_shards_module._load = load_or_die
        make_shards(*args, **options)
    finally:
        os._exit(0)


def test_make_shards__a_killed_one_goes_on_to_the_same_bytes(folder, tmp_path, capsys):
    (folder / "dog" / "bad.jpg").write_bytes(b"no image")
    options = {"images_per_shard": 3, "skip_damaged": True}
    whole, output = make_shards(folder, tmp_path / "whole", **options), tmp_path / "shards"
    for image in (0, 25, 5):  # images ahead of the writer are loaded too, so seven at least are left for the third
        killed_at(image, folder, output, **options)
        assert (output / "unfinished.json").is_file()
    begun = len(json.loads((output / "unfinished.json").read_text())["shards"])  # a kill may come before one is noted
    assert 0 < begun < whole.shards
    assert "index.json" not in contents(output)
    with pytest.raises(FileExistsError, match="contains unfinished shards with different images_per_shard, seed; use"):
        make_shards(folder, output, images_per_shard=4, seed=1)
    with claim(output), pytest.raises(BlockingIOError, match="another process"):
        make_shards(folder, output, **options)
    capsys.readouterr()
    assert make_shards(folder, output, **options) == whole
    assert f"{output} contains {begun} complete shards; continuing after them" in capsys.readouterr().err
    assert contents(output) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"unfinished\.json is not a valid record of unfinished shards \(JSONDecodeError: .*\); empty the folder"),
        ("[]", r"unfinished\.json is not a valid record of unfinished shards \(TypeError"),
        (
            '{"settings": {}, "place": 1, "damaged": [], "shards": [{"name": "a.tar", "images": 1, "bytes": 1}]}',
            r"a\.tar, which is listed in .*unfinished\.json, is missing; empty the folder",
        ),
    ],
)
def test_make_shards__a_damaged_record_of_what_was_begun(folder, tmp_path, record, message):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "unfinished.json").write_text(record)
    with pytest.raises(ValueError, match=message):
        make_shards(folder, tmp_path / "shards")


def test_make_shards__damaged_images_can_be_left_out(folder, tmp_path):
    expected = Counter(files(folder).values())
    for name in ("cat/bad.jpg", "dog/worse.png"):
        (folder / name).write_bytes(b"no image")
    summary = make_shards(folder, tmp_path / "shards", images_per_shard=3, skip_damaged=True, workers=2)
    assert Counter(image_bytes(tmp_path / "shards")) == expected
    assert [message.partition(" cannot")[0] for message in sorted(summary.damaged)] == [
        str(folder / name) for name in ("cat/bad.jpg", "dog/worse.png")
    ]
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 33 images of .* can be read: "):
        make_shards(folder, tmp_path / "none", skip_damaged=True)


def test_make_shards__refuses_a_folder_that_is_not_empty(folder, tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "shard-000000.tar").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        make_shards(folder, tmp_path / "shards")
    assert (tmp_path / "shards" / "shard-000000.tar").read_bytes() == b"mine"


def test_make_shards__missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        make_shards(tmp_path / "nowhere", tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_make_index__equals_the_index_that_came_with_the_shards(folder, tmp_path):
    shards = tmp_path / "shards"
    make_shards(folder, shards, images_per_shard=7)
    written = (shards / "index.json").read_text()
    (shards / "index.json").unlink()
    summary = make_index([f"{shards}/shard-{{000000..000004}}.tar"], shards / "index.json", workers=3)
    assert (shards / "index.json").read_text() == written
    assert (summary.shards, summary.images) == (5, 31)


def test_make_index__names_lead_to_the_shards(folder, tmp_path, monkeypatch):
    make_shards(folder, tmp_path / "shards", images_per_shard=20)
    monkeypatch.chdir(tmp_path)
    patterns = [
        "shards/shard-{000000,000001}.tar",
        "pipe:cat shards/shard-00000{0..1}.tar",
        f"file://{tmp_path}/shards/shard-000001.tar",
    ]
    with pytest.raises(ValueError, match=r"^pipe:cat \S+0\.tar is a command that was not run, .*; add --allow-pipe"):
        make_index(patterns[1:2], "below.json")
    make_index(patterns, "below.json", allow_pipe=True)
    make_index(patterns, "elsewhere/index.json", allow_pipe=True)
    for index in ("below.json", str(tmp_path / "elsewhere" / "index.json")):
        found = ShardIndex(index, allow_pipe=True)
        assert found.images.tolist() == [20, 11, 20, 11, 11]
        batch = next(iter(ShardSampler(index, 73, 0, 100, allow_pipe=True)))
        assert Counter(data for (_, data), _ in batch) == Counter(
            image_bytes(tmp_path / "shards") * 2 + image_bytes(tmp_path / "shards")[20:]
        )
    assert ShardIndex("below.json", allow_pipe=True).names[0] == "shards/shard-000000.tar"
    assert ShardIndex("elsewhere/index.json", allow_pipe=True).names[0] == str(
        (tmp_path / "shards" / "shard-000000.tar").resolve()
    )


def test_make_index__faults(folder, tmp_path):
    make_shards(folder, tmp_path / "shards", images_per_shard=20)
    shard = tmp_path / "shards" / "shard-000000.tar"
    with pytest.raises(FileExistsError, match=r"index\.json already exists"):
        make_index([str(shard)], tmp_path / "shards" / "index.json")
    with pytest.raises(FileNotFoundError, match=r"shard-000002\.tar does not exist"):
        make_index([f"{tmp_path}/shards/shard-{{000000..000002}}.tar"], tmp_path / "index.json")
    shard.write_bytes(shard.read_bytes()[:30_000])
    with pytest.raises(ValueError, match=r"shard-000000\.tar is damaged"):
        make_index([str(shard)], tmp_path / "index.json")
    with tarfile.open(tmp_path / "text.tar", "w") as archive:
        archive.add(folder / "notes.txt")
    with pytest.raises(ValueError, match=r"text\.tar contains no images"):
        make_index([str(tmp_path / "text.tar")], tmp_path / "index.json")
    assert not (tmp_path / "index.json").exists()


def test_make_index__faults_are_told_together(folder, tmp_path, monkeypatch):
    shards, output = tmp_path / "shards", tmp_path / "index.json"
    make_shards(folder, shards, images_per_shard=4)
    patterns = [f"{shards}/shard-00000{{0..7}}.tar"]
    for number in (1, 3, 4, 6):
        (shards / f"shard-00000{number}.tar").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"000001\.tar does not exist; .*000003\.tar does not exist; .*000004\.tar does not exist; \.\.\.:"
        r" 4 of the first 8 shards cannot be counted; no index was written",
    ):
        make_index(patterns, output, workers=2)
    (shards / "shard-000003.tar").write_bytes(b"no archive")
    with pytest.raises(
        ValueError, match=r"000001\.tar does not exist; .*000003\.tar is damaged or .*: 4 of the first 8"
    ):
        make_index(patterns, output)
    monkeypatch.setattr(make_shards_module, "MAX_FAULTS", 2)
    with pytest.raises(ValueError, match=r"000003\.tar is damaged or [^;]*: 2 of the first 4 shards cannot be counted"):
        make_index(patterns, output)
    assert not output.exists()


def test_make_index__indexes_can_be_joined(folder, tmp_path):
    """As docs/shards.md says: one list of the entries of all, in the same folder."""
    make_shards(folder, tmp_path / "shards", images_per_shard=10)
    parts = [tmp_path / f"part-{number}.json" for number in range(2)]
    make_index([f"{tmp_path}/shards/shard-00000{{0,1}}.tar"], parts[0])
    make_index([f"{tmp_path}/shards/shard-00000{{2,3}}.tar"], parts[1])
    entries = [entry for part in parts for entry in json.loads(part.read_text())["shards"]]
    (tmp_path / "joined.json").write_text(json.dumps({"version": 1, "shards": entries}))
    batch = next(iter(ShardSampler(str(tmp_path / "joined.json"), 31, seed=0, shuffle_buffer=100)))
    assert Counter(data for (_, data), _ in batch) == Counter(files(folder).values())


@pytest.mark.parametrize(("text", "size"), [("12", 12), ("2k", 2000), ("500M", 500_000_000), ("1.5G", 1_500_000_000)])
def test_parse_size(text, size):
    assert parse_size(text) == size


def test_main__says_what_was_done(folder, tmp_path, capsys):
    (folder / "bad.jpg").write_bytes(b"no image")
    output = str(tmp_path / "shards")
    run_shards(
        [str(folder), "--output", output, "--max-size", "30K", "--no-shuffle", "--skip-damaged", "--workers", "1"]
    )
    written = capsys.readouterr()
    shards = len(list(Path(output).glob("*.tar")))
    assert shards > 3
    assert f"{output}/index.json: 31 images in {shards} shards" in written.out
    assert f"skipped: {folder}/bad.jpg cannot be read as an image (unrecognised format)" in written.err
    assert f"1 files in {folder} are not images (by extension); ignored" in written.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x"], "expected either a FOLDER of images or --index"),
        (["y", "--index", "z", "--output", "x"], "expected either a FOLDER of images or --index"),
        (["nowhere", "--output", "x"], "error: nowhere is not a folder; expected a folder of images"),
        (["y", "--output", "x", "--max-size", "big"], "expected a size such as 500M or 1.5G, got 'big'"),
        (["y", "--output", "x", "--max-size", "0K"], "expected a size such as 500M or 1.5G, got '0K'"),
        (["y", "--output", "x", "--images-per-shard", "0"], "--images-per-shard: invalid positive int value: '0'"),
        (["y", "--output", "x", "--workers", "0"], "--workers: invalid positive int value: '0'"),
        (["y", "--output", "x", "--resize", "-1"], "--resize: invalid positive int value: '-1'"),
        (
            ["--index", "part-{0..1}.tar", "--output", "x"],
            "error: part-0.tar does not exist; part-1.tar does not exist: 2 of the first 2 shards cannot be counted",
        ),
    ],
)
def test_main__faults_on_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        run_shards(arguments)
    # argparse reports wrong options itself, with the usage; the interpreter prints any other exit code that is text.
    told = ended.value.code if isinstance(ended.value.code, str) else capsys.readouterr().err.splitlines()[-1]
    assert message in told
    assert "\n" not in told
    assert list(tmp_path.iterdir()) == []


def test_progress__of_images_and_of_shards(folder, tmp_path, monkeypatch, capsys):
    """The clock advances by a minute at each reading."""
    minutes = itertools.count(0, 60)
    monkeypatch.setattr(make_shards_module, "progress", partial(progress, clock=lambda: next(minutes)))
    make_shards(folder, tmp_path / "shards", images_per_shard=10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 30
    assert lines[0] == "image 1 of 31, about 1:00 h left"
    make_index([f"{tmp_path}/shards/shard-00000{{0..3}}.tar"], tmp_path / "index.json")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["shard 1 of 4", "shard 2 of 4", "shard 3 of 4"]
