"""The public API: what docs/api.md shows runs as it stands there, in one go, and everything exported is documented."""

import pkgutil
import re
from pathlib import Path

import pytest
import torch

import mocodet.detection
import mocodet.pretrain

DOCS = Path(__file__).parents[1] / "docs"
PAGE, REFERENCE = ((DOCS / name).read_text(encoding="utf-8") for name in ("api.md", "reference.md"))
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_examples__run_as_they_stand(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, "docs/api.md", "exec"), names)
    assert names["moco"].queue_ptr.item() == 8
    assert set(names["outputs"]) == {"loss", "accuracy", "accuracy_in_batch", "spread"}
    saved = torch.load(names["checkpoint"], weights_only=True)
    assert saved["iteration"] == 1
    assert "res5.1.conv2.norm.running_var" in names["weights"]["model"]
    loaded = torch.load(tmp_path / "detector" / "model_final.pth", weights_only=True)["model"]
    # Two warm-up steps hardly move a weight: the detector began with the encoder.
    converted = torch.from_numpy(names["weights"]["model"]["res2.0.conv1.weight"])
    assert torch.allclose(loaded["backbone.bottom_up.res2.0.conv1.weight"], converted, atol=5e-3)
    assert "AP" in names["results"]["bbox"]
    assert names["predictor"].classes.names == names["TOY_CLASSES"]
    assert names["found"].image_size == (48, 64)


@pytest.mark.parametrize("package", [mocodet.pretrain, mocodet.detection])
def test_exports__are_on_the_pages_and_documented(package):
    referred = {path.rpartition(".")[2]: path for path in re.findall(r"^::: (\S+)$", REFERENCE, flags=re.MULTILINE)}
    for name in package.__all__:
        if name == "modeling":  # what importing registers; its names are those in configs
            continue
        exported = getattr(package, name)
        assert exported.__doc__ or name == "METHODS", name
        assert f"`{name}`" in PAGE, name
        assert pkgutil.resolve_name(referred[name]) is exported
