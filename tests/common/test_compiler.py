import json
import subprocess
import sys

import torch
from detectron2.layers import Conv2d, wrappers

from mocodet.common import compiler

# In a process of its own: prints whether the compiler was imported by the library, by a verified conversion, and at
# last by the question that torchvision has for it; and the two answers to that question.
WATCHED = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mocodet.pretrain, mocodet.detection
seen = ["torch._dynamo" in sys.modules]
import torch, torchvision
torch.save(torchvision.models.resnet18().state_dict(), sys.argv[1])
from mocodet.detection import convert_file
assert len(convert_file(sys.argv[1], sys.argv[1] + ".pkl").differences) == 4
seen.append("torch._dynamo" in sys.modules)
ask = sys.modules["torchvision.ops.roi_align"].is_compile_supported
answers = [ask("cpu"), ask("hpu")]
seen.append("torch._dynamo" in sys.modules)
import torch._dynamo.utils as utils
print(json.dumps([seen, answers, [utils.is_compile_supported("cpu"), utils.is_compile_supported("hpu")]]))
"""


def test_compiler__is_imported_when_it_is_asked(tmp_path):
    command = [sys.executable, "-c", WATCHED, str(tmp_path / "encoder.pth")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen, answers, expected = json.loads(done.stdout)
    assert seen == [False, False, True]
    assert answers == expected


def test_stand_in__gives_all_that_the_module_has(monkeypatch):
    import torch._dynamo.utils as utils

    monkeypatch.delitem(sys.modules, compiler.UTILS)
    stand_in = compiler._StandIn(compiler.UTILS)
    monkeypatch.setitem(sys.modules, compiler.UTILS, stand_in)
    monkeypatch.setattr(compiler, "import_module", lambda name: utils)
    assert stand_in.counters is utils.counters
    assert compiler.UTILS not in sys.modules  # it has been replaced


def test_eager_convolutions__compute_the_same_and_are_put_back(monkeypatch):
    asked = wrappers.check_if_dynamo_compiling
    convolution, images = Conv2d(3, 4, 3), torch.randn(2, 3, 8, 8)
    expected = convolution(images)
    monkeypatch.setattr(compiler, "COMPILER", "not.imported")
    with compiler.eager_convolutions():
        assert wrappers.check_if_dynamo_compiling is torch.compiler.is_compiling
        assert torch.equal(convolution(images), expected)
    assert wrappers.check_if_dynamo_compiling is asked
