"""Export of a trained model to a TorchScript file, which runs without mocodet and detectron2, in Python and in C++."""
