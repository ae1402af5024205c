"""A trained model as a TorchScript file, which runs without mocodet and detectron2, in Python and in C++."""
