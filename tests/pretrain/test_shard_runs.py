"""Pre-training from shards through its command: resumed streams, whole epochs, memory."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mocodet.pretrain.data.shards import MAX_BUFFER_BYTES, ShardImages
from mocodet.pretrain.run import run as train_in_process
from tests.checkpoints import assert_equal_states, copy_checkpoint
from tests.commands import parsed, pretrain
from tests.processes import run_in_processes

SIZES = (7, 1, 11, 5)  # 24 images: three batches of eight per epoch
ROOT = Path(__file__).parents[2]
MID_EPOCH = "model_0000001.pth"  # after two of three iterations of an epoch


def png(number: int) -> bytes:
    written = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(written, format="PNG")
    return written.getvalue()


def write_shard(path: Path, images: dict[str, bytes]) -> dict[str, object]:
    """Write a shard; return its entry in an index."""
    with tarfile.open(path, "w") as archive:
        for name, data in images.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return {"name": path.name, "images": len(images), "bytes": sum(map(len, images.values()))}


@pytest.fixture
def index(tmp_path) -> Path:
    first, entries = 0, []
    for shard, size in enumerate(SIZES):
        images = {f"{number:02}.png": png(number) for number in range(first, first + size)}
        entries.append(write_shard(tmp_path / f"part-{shard}.tar", images))
        first += size
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"version": 1, "shards": entries}))
    return path


def arguments(index: Path, output: Path, *overrides: object, flags: tuple[str, ...] = ()) -> list[str]:
    """Write the config of a model small enough for a test; return the command's arguments."""
    config = output.parent / f"{output.name}.yaml"
    config.write_text(
        f"""
        OUTPUT_DIR: {output}
        LOG_PERIOD: 1
        DATA: {{SHARDS: {index}, SHUFFLE_BUFFER: 5, NUM_WORKERS: 0}}
        AUGMENTATION: {{CROP_SIZE: 32}}
        MODEL: {{ARCH: resnet18, DIM: 8, DEVICE: cpu, BN_GROUPS: 2}}
        CONTRAST: {{QUEUE_SIZE: 20, MOMENTUM: 0.9}}
        SOLVER: {{IMS_PER_BATCH: 8, MAX_EPOCHS: 2, PRECISION: float32, CHECKPOINT_PERIOD: 2}}
        """
    )
    return ["--config-file", str(config), *flags, *map(str, overrides)]


def assert_equal_ends(output: Path, whole: Path) -> None:
    first, *found = (
        torch.load(path, weights_only=True)
        for path in (whole / "model_0000001.pth", output / "model_final.pth", whole / "model_final.pth")
    )
    assert_equal_states(*found)
    weights = "encoder_q.conv1.weight"
    assert not torch.equal(first["model"][weights], found[0]["model"][weights]), "trained further from the checkpoint"


def iterations(output: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (output / "metrics.json").read_text().splitlines()]


def test_resume__in_mid_epoch_with_loader_processes_is_bit_identical(index, tmp_path, monkeypatch):
    monkeypatch.setenv("MOCODET_TRACEBACK", "1")
    whole, output = tmp_path / "whole", tmp_path / "run"
    content = json.loads(index.read_text())
    content["shards"][0]["name"] = f"pipe:cat {tmp_path}/part-0.tar"
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json lists 1 shards as commands, .* add --allow-pipe if you trust"):
        pretrain(arguments(index, whole))
    pretrain(arguments(index, whole, "DATA.NUM_WORKERS", 2, flags=("--allow-pipe",)))
    copy_checkpoint(whole, output, MID_EPOCH)
    torch.manual_seed(99)  # earlier random numbers of the process must not matter
    pretrain(arguments(index, output, "DATA.NUM_WORKERS", 2, flags=("--resume", "--allow-pipe")))
    assert_equal_ends(output, whole)
    assert iterations(whole) == list(range(6))
    assert iterations(output) == list(range(2, 6))


def train_twice(first: list[str], whole: str, output: str, second: list[str]) -> list[list[str]]:
    """Train a whole run and then one from its checkpoint; return the members that each decoded, in their order."""
    drawn: list[list[str]] = []

    def record(_: ShardImages, item: tuple[str, bytes]) -> tuple[str, bytes]:
        drawn[-1].append(item[0].rpartition(": ")[2])
        return item

    ShardImages.encoded = record
    for given in (first, second):
        drawn.append([])
        train_in_process(parsed("pretrain", given))
        if given is first:
            if torch.distributed.get_rank() == 0:
                copy_checkpoint(Path(whole), Path(output), MID_EPOCH)
            torch.distributed.barrier()
    return drawn


def test_two_processes__every_image_once_an_epoch_and_bit_identical_when_resumed(index, tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "run"
    first, second = arguments(index, whole), arguments(index, output, flags=("--resume",))
    drawn = run_in_processes(train_twice, first, str(whole), str(output), second)
    for epoch in range(2):
        names = [name for run, _ in drawn for name in run[12 * epoch : 12 * epoch + 12]]
        assert sorted(names) == [f"{number:02}.png" for number in range(24)]
    for run, resumed in drawn:
        assert len(run) == 24
        assert run[:12] != run[12:]
        assert resumed == run[2 * 4 :], "the very next image of this process"
    assert_equal_ends(output, whole)


# The size of a JPEG of ImageNet, so that the default buffer reaches its limit in bytes; decoders do not
# read bytes after the end of a PNG.
BYTES = 100_000

TRAIN = """
import sys
from pathlib import Path
from mocodet.common.commands.main import main
main(["pretrain", *sys.argv[1:]])
# Unlike getrusage's, this peak does not begin with that of the process that started this one.
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


def test_memory__an_index_of_a_hundred_million_images(tmp_path):
    entry = write_shard(tmp_path / "part.tar", {f"{number}.png": png(number).ljust(BYTES) for number in range(1000)})
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"version": 1, "shards": [entry] * 100_000}))
    solver = ("SOLVER.LR_SCHEDULE", "decay", "SOLVER.MAX_ITER", 3)
    given = arguments(index, tmp_path / "run", "DATA.SHUFFLE_BUFFER", 10_000, *solver)
    done = subprocess.run([sys.executable, "-c", TRAIN, *given], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{10**8} images of {index}" in (tmp_path / "run" / "log.txt").read_text()
    assert iterations(tmp_path / "run") == [0, 1, 2]
    peak = int(done.stdout.splitlines()[-1].split()[1]) * 1024
    assert 0.99 * MAX_BUFFER_BYTES < peak < 2e9, "the buffer is full, and little else takes memory"
