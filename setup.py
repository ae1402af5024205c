"""Packages the folders of this repository as one package, `mocodet`."""

import runpy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setuptools import setup

# The top-level folders to package. They are imported as `mocodet.*`, because an installed module named `detection`
# would be shadowed by any folder of that name in the user's project.
ROOMS = ("common", "pretrain", "detection", "configs")

# The package `mocodet` itself, with its `__main__`, is in a subfolder, because the top level contains only the folders
# above.
PACKAGE = Path("common/package")

# The version and the name of the program. The two files import nothing that may not be installed yet.
VERSION = runpy.run_path(str(PACKAGE / "__init__.py"))["__version__"]
PROGRAM = runpy.run_path("common/commands/table.py")["PROGRAM"]

# Maps every importable package (`mocodet`, `mocodet.pretrain.data`, ...) to its folder.
FOLDERS = [init.parent for room in ROOMS for init in sorted(Path(room).rglob("__init__.py"))]
PACKAGES = {".".join(("mocodet", *folder.parts)): str(folder) for folder in FOLDERS if folder != PACKAGE}
PACKAGES["mocodet"] = str(PACKAGE)

# Four distributions that provide the same package, `cv2`, and overwrite each other.
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")


def installed_opencv() -> str:
    """Return the installed distribution of OpenCV, or the first one if none is found, as in an isolated build."""
    for name in OPENCV:
        try:
            version(name)
        except PackageNotFoundError:
            continue
        return name
    return OPENCV[0]


setup(
    name="mocodet",
    version=VERSION,
    description="Momentum Contrast pre-training and detectron2 transfer learning",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mocodet authors",
    license="Apache-2.0",
    project_urls={"Paper": "https://arxiv.org/abs/1911.05722"},
    keywords=["self-supervised learning", "contrastive learning", "object detection", "detectron2"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "mocodet": ["py.typed"],
        **{f"mocodet.{room}": ["py.typed"] for room in ROOMS},
        "mocodet.common.report": ["published.yaml", "templates/*"],
        "mocodet.configs": ["py.typed", "*.yaml", "pretrain/*.yaml", "classification/*.yaml", "studies/*.yaml"],
    },
    # detectron2 itself is not available on PyPI under its own name; `make setup` and the README install it.
    # The packages from cloudpickle to tqdm are imported by detectron2, whose wheel is installed without dependencies.
    # docs/versions.md describes how the lower bounds were tested. Upper bounds would exclude versions that work.
    install_requires=[
        "torch>=2.10",  # weights_only does not prevent code execution in older versions (CVE-2026-24747)
        "torchvision>=0.25",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "numpy>=1.26.1",
        f"{installed_opencv()}>=4.5.5.64",  # augments images; detectron2 uses it to draw and to read Cityscapes
        "pillow>=9.3",
        "pycocotools>=2.0.7",
        "yacs>=0.1.8",
        "webdataset>=1.0.2",
        "scipy>=1.11.1",  # computes a study's intervals and reads MATLAB files (SBD, ImageNet's development kit)
        "braceexpand>=0.1.7",
        "faster-coco-eval>=1.8",
        "safetensors>=0.4",
        "fsspec>=2023.1",
        "requests>=2.28",
        "jinja2>=3.1",  # renders the pages of mocodet report
        "cloudpickle>=2.0",
        "hydra-core>=1.3",
        "matplotlib>=3.7",
        "omegaconf>=2.3",
        "packaging>=24.0",
        "tabulate>=0.8.9",
        "tensorboard>=2.12",
        "termcolor>=1.1",
        "tqdm>=4.64",
    ],
    extras_require={
        # Decodes JPEG files to the same bytes as Pillow in a fifth to a half less time.
        "jpeg": ["simplejpeg>=1.6.6"],
        # Used by detectron2 to read and evaluate Cityscapes instances.
        "cityscapes": ["cityscapesscripts>=2.2", "shapely>=2.0"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3",
            "hypothesis>=6",
            "ruff>=0.14",
            "mypy>=1.18",
            "build",
            "setuptools>=68",
            "wheel",
        ],
        "docs": ["mkdocs>=1.6", "mkdocs-material>=9.5.30", "mkdocstrings[python]>=1.0"],
        # Executes docs/tour.ipynb to store its outputs (CONTRIBUTING.md).
        "notebook": ["ipykernel", "nbclient"],
    },
    entry_points={"console_scripts": [f"{PROGRAM}=mocodet.__main__:main"]},
)
