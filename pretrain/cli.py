"""The command `mocodet-pretrain`."""

import argparse
import logging
import warnings
from pathlib import Path

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from fvcore.common.config import CfgNode

from mocodet import configs
from mocodet.common.files import atomic_open
from mocodet.common.launch import argument_parser, launch

from .config import get_cfg, validate
from .trainer import PretrainTrainer

DESCRIPTION = """Pre-train an encoder with MoCo on a folder of unlabelled images.

  tools/pretrain_net.py --config-file configs/pretrain/moco_v2_R_50_200ep.yaml --num-gpus 8 \\
      DATA.ROOT imagenet/train OUTPUT_DIR output/moco_v2

The encoder is in OUTPUT_DIR/model_final.pth; convert it with tools/convert_pretrain_to_detectron2.py.
"""


def setup(args: argparse.Namespace) -> tuple[CfgNode, int]:
    """Read and check the config, start logging, write OUTPUT_DIR/config.yaml; return the config and the seed."""
    cfg = get_cfg()
    cfg.merge_from_file(str(configs.locate(args.config_file)))
    cfg.merge_from_list(args.opts)
    validate(cfg)
    cfg.freeze()

    Path(cfg.OUTPUT_DIR).mkdir(parents=True, exist_ok=True)
    for name in ("mocodet", "fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    logger = logging.getLogger("mocodet.pretrain")
    logger.info(f"{comm.get_world_size()} process(es); config:\n{cfg.dump()}")
    if comm.is_main_process():
        with atomic_open(Path(cfg.OUTPUT_DIR, "config.yaml"), "w") as handle:
            handle.write(cfg.dump())
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    logger.info(f"seed {seed}")
    return cfg, seed


def run(args: argparse.Namespace) -> None:
    """Pre-train in one process of the launched ones."""
    warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
    cfg, seed = setup(args)
    trainer = PretrainTrainer(cfg, seed)
    trainer.resume_or_start(args.resume)
    trainer.train()


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    launch(run, argument_parser(DESCRIPTION).parse_args(argv))


if __name__ == "__main__":
    main()
