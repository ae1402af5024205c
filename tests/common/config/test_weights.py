from mocodet.common.config.weights import weights_file


def test_weights_file(tmp_path):
    (tmp_path / "x.pkl").touch()
    assert weights_file("a/x.pkl?matching_heuristics=True").as_posix() == "a/x.pkl"
    assert weights_file(f"moco://{tmp_path}/x.pkl") == tmp_path / "x.pkl"
    for name in ("", "moco://v2_200ep", "detectron2://ImageNetPretrained/MSRA/R-50.pkl"):
        assert weights_file(name) is None
